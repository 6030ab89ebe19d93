/** Shell lines that do what the page did. */

import { base, streamUrl } from "./api.js";

const ARGUMENT_LIMIT = 100_000;

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Return the line that sends a body again and prints its answer as it arrives. */
export function sendLine(body) {
  const json = JSON.stringify(body);
  const head = [
    `curl -N ${new URL("infer", base)}`,
    "-H 'Accept: text/event-stream'",
    "-H 'Content-Type: application/json'",
  ].join(" \\\n  ");
  // A shell's single argument is limited to 128 KiB, a here-document is not.
  if (json.length > ARGUMENT_LIMIT) return `${head} \\\n  --data-binary @- <<'JSON'\n${json}\nJSON`;
  return `${head} \\\n  -d ${quote(json)}`;
}

/** Return the line that reads a request's events from the beginning. */
export const readLine = (id) => `curl -N ${streamUrl(id)}`;
