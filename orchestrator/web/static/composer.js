/** The form at the foot of the page. It adds no rules of its own: what is wrong, the API says. */

import { byId } from "./dom.js";
import { transport } from "./memory.js";
import { transports } from "./transports.js";

const numeric = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);

export class Composer {
  #form = byId("composer");
  #prompt = byId("prompt");

  /** `send` gets the body and the transport; true from it empties the prompt. */
  constructor({ send, stop }) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(send);
    });
    this.#prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.#form.requestSubmit();
    });
    byId("stop").addEventListener("click", stop);
    byId("toggle-options").addEventListener("click", () => this.#toggleOptions());
    this.#keepTransport();
    if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("keys").firstElementChild.textContent = "⌘";
  }

  get transport() {
    return transports[this.#form.elements.transport.value];
  }

  focus() {
    this.#prompt.focus();
  }

  /** Offer models, where there is a choice. */
  offer(models) {
    byId("model-field").hidden = models.length < 2;
    byId("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
  }

  /** Stop is there while something runs. */
  showRunning(isRunning) {
    byId("stop").hidden = !isRunning;
  }

  async #submit(send) {
    const sent = this.#prompt.value;
    const button = byId("send");
    if (button.ariaDisabled === "true") return;
    button.ariaDisabled = "true";
    try {
      const isAccepted = await send(this.#body(), this.transport);
      if (isAccepted && this.#prompt.value === sent) this.#prompt.value = "";
    } finally {
      button.ariaDisabled = "false";
    }
  }

  #body() {
    const { prompt, system, max_tokens, temperature, priority, model } = this.#form.elements;
    const body = { prompt: prompt.value };
    if (!byId("model-field").hidden) body.model = model.value;
    if (system.value) body.system = system.value;
    if (max_tokens.value) body.max_tokens = numeric(max_tokens.value);
    if (temperature.value) body.temperature = numeric(temperature.value);
    if (priority.value) body.priority = priority.value;
    return body;
  }

  #toggleOptions() {
    const options = byId("options");
    options.hidden = !options.hidden;
    byId("toggle-options").ariaExpanded = String(!options.hidden);
  }

  #keepTransport() {
    const { transport: choice } = this.#form.elements;
    const kept = transport.get();
    if (kept in transports) choice.value = kept;
    for (const radio of choice) {
      radio.addEventListener("change", () => transport.set(choice.value));
    }
  }
}
