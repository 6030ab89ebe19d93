/** One prompt with its answer, on the page: what it shows, and nothing of where it comes from. */

import { AnswerText } from "./answer.js";
import { clone, part } from "./dom.js";
import { figures, fillFacts } from "./facts.js";
import { showFault } from "./fault.js";
import { count, duration, plural } from "./format.js";
import { Rhythm } from "./rhythm.js";
import { isLive } from "./status.js";

const LONG_PROMPT = 1500;

export class Turn {
  #answer;
  #rhythm;
  #body;
  #request = null;
  #tokens = 0;
  #since = Date.now();
  #isUp = true;

  /** `prompt` may be null, where nobody knows it any more; `painted` is told of each change. */
  constructor({ prompt, body = null, painted }) {
    this.element = clone("turn-template");
    this.status = "pending";
    this.#body = body;
    this.#rhythm = new Rhythm(this.#part("rhythm"));
    this.#answer = new AnswerText(this.#part("answer"), () => {
      this.#showProgress();
      painted();
    });
    this.#part("facts").addEventListener("toggle", () => this.#fillFacts());
    this.#part("facts").firstElementChild.addEventListener("click", () => this.#showFacts());
    this.#showPrompt(prompt);
    this.#showStatus();
  }

  get isLive() {
    return isLive(this.status);
  }

  get text() {
    return this.#part("answer").textContent;
  }

  started() {
    if (this.status === "pending") this.#setStatus("processing");
  }

  token(text) {
    this.started();
    this.#tokens += 1;
    this.#rhythm.mark();
    this.#answer.append(text);
  }

  restarted() {
    this.#tokens = 0;
    this.#rhythm.clear();
    this.#answer.clear();
  }

  connected(isUp) {
    this.#isUp = isUp;
    this.#showStatus();
  }

  ended({ status, error = null }) {
    this.#answer.flush();
    this.#rhythm.end();
    this.#isUp = true;
    this.#setStatus(status);
    if (error) this.#showError(error);
  }

  /** Show a request as its object tells it. A failed one has no result: what came of it stays. */
  show(request) {
    this.#request = request;
    this.id = request.request_id;
    this.element.id = `request-${this.id}`;
    this.#since = Date.parse(request.created_at) || this.#since;
    this.#part("model").textContent = request.model ?? "Answer";
    if (request.result != null) this.#answer.set(request.result);
    if (request.error) this.#showError({ code: request.error_code, message: request.error });
    this.#setStatus(request.status);
    this.#part("figures").textContent = figures(request);
    this.#fillFacts();
  }

  /** Show an answer whose request is no longer kept. */
  showKept(answer) {
    this.#answer.set(answer);
    this.#part("facts").hidden = true;
    this.#setStatus("completed");
  }

  /** Bring it to the reader's eyes, with its details. */
  reveal() {
    this.#part("facts").open = true;
    this.element.scrollIntoView({ block: "start" });
  }

  #part(name) {
    return part(this.element, name);
  }

  #setStatus(status) {
    this.status = status;
    this.#showStatus();
  }

  #showStatus() {
    const chip = this.#part("chip");
    const shown = this.isLive && !this.#isUp ? "reconnecting" : this.status;
    chip.textContent = shown;
    chip.dataset.status = shown;
    this.element.dataset.status = this.status;
    this.#part("answer").ariaBusy = String(this.isLive);
  }

  #showProgress() {
    if (!this.isLive || !this.#tokens) return;
    this.#part("rhythm").removeAttribute("hidden");
    this.#rhythm.draw();
    const took = duration(Math.max(0, Date.now() - this.#since));
    this.#part("figures").textContent = `${plural(this.#tokens, "token")} · ${took}`;
  }

  /** The click opens the details after this; then they should be seen. */
  #showFacts() {
    const facts = this.#part("facts");
    const look = () => facts.open && facts.lastElementChild.scrollIntoView({ block: "nearest" });
    requestAnimationFrame(look);
  }

  #fillFacts() {
    const facts = this.#part("facts");
    if (facts.open) fillFacts(facts, this.#request, this.#body);
  }

  #showError(error) {
    this.#part("fault").hidden = false;
    showFault(this.#part("fault"), error);
  }

  #showPrompt(prompt) {
    const root = this.#part("prompt");
    if (prompt === null) {
      root.classList.add("unknown");
      root.textContent = "The prompt isn't kept in this tab.";
    } else if (prompt.length <= LONG_PROMPT) {
      root.textContent = prompt;
    } else {
      this.#showBeginning(root, prompt);
    }
  }

  #showBeginning(root, prompt) {
    const whole = this.#part("whole");
    root.textContent = `${prompt.slice(0, LONG_PROMPT)}…`;
    whole.hidden = false;
    whole.textContent = `Show all ${count(prompt.length)} characters`;
    whole.addEventListener("click", () => {
      whole.hidden = true;
      new AnswerText(root).set(prompt);
    });
  }
}
