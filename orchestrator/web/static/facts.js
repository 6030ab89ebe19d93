/** The details of a request: where its time went, its numbers, and the shell lines. */

import { copies } from "./clipboard.js";
import { readLine, sendLine } from "./curl.js";
import { clone, element, part } from "./dom.js";
import { count, duration, moment, plural, tookMs } from "./format.js";

const SHOWN = 4000;

/** Return the short line beside the status. */
export function figures(request) {
  const { metrics, usage, queue_position: ahead } = request;
  const took = tookMs(request);
  return [
    ahead ? `${plural(ahead, "request")} ahead` : null,
    took === null ? null : duration(took),
    metrics?.ttft_ms == null ? null : `first token ${duration(metrics.ttft_ms)}`,
    usage ? plural(usage.output_tokens, "token") : null,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** Fill the panel of a turn. `body` is what was sent, where this tab knows it. */
export function fillFacts(root, request, body) {
  fillStrip(part(root, "strip"), request.metrics);
  const known = rows(request).filter(([, value]) => value !== null && value !== undefined);
  part(root, "list").replaceChildren(...known.map(fact));
  const lines = part(root, "lines");
  lines.replaceChildren();
  if (body) lines.append(shellLine("Send it again", sendLine(body)));
  lines.append(shellLine("Read this answer again", readLine(request.request_id)));
}

function fact([name, value, look = ""]) {
  const group = element("div", "", look);
  const told = element("dd");
  told.append(look === "wide" ? element("code", value) : value);
  group.append(element("dt", name), told);
  return group;
}

function rows(request) {
  const { metrics, usage } = request;
  const time = (ms) => (ms == null ? null : duration(ms));
  return [
    ["Request", request.request_id, "wide"],
    ["Session", request.session_id, "wide"],
    ["Status", request.status],
    ["Finish reason", request.finish_reason === request.status ? null : request.finish_reason],
    ["Error code", request.error_code],
    ["Model", request.model],
    ["Backend", request.backend === request.model ? null : request.backend],
    ["Priority", request.priority],
    ["Attempts", request.attempts > 1 ? count(request.attempts) : null],
    ["Queued", time(metrics?.queue_ms), "queue"],
    ["First token", time(metrics?.ttft_ms), "first"],
    ["Run", time(metrics?.run_ms), "run"],
    ["Tokens in", usage ? count(usage.input_tokens) : null],
    ["Tokens out", usage ? count(usage.output_tokens) : null],
    ["Created", request.created_at && moment(request.created_at)],
    ["Kept until", request.expires_at && moment(request.expires_at)],
  ];
}

/** Show queue, first token and the rest of the run as lengths. */
function fillStrip(strip, metrics) {
  const { queue_ms: queue, ttft_ms: first, run_ms: run } = metrics ?? {};
  strip.hidden = run == null;
  if (strip.hidden) return;
  const lengths = [queue ?? 0, first ?? 0, Math.max(0, run - (first ?? 0))];
  const total = lengths.reduce((sum, length) => sum + length, 0) || 1;
  [...strip.children].forEach((bar, index) => {
    bar.style.flexGrow = lengths[index] / total;
    bar.hidden = !lengths[index];
  });
}

function shellLine(title, line) {
  const root = clone("line-template");
  part(root, "title").textContent = title;
  part(root, "code").textContent = line.length > SHOWN ? `${line.slice(0, SHOWN)}…` : line;
  part(root, "code").parentElement.ariaLabel = `${title}: a shell line`;
  part(root, "copy").ariaLabel = `Copy the line: ${title}`;
  copies(part(root, "copy"), () => line);
  return root;
}
