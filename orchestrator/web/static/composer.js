/** The form at the foot of the page. It adds no rules of its own: what is wrong, the API says. */

import { byId } from "./dom.js";
import { transport } from "./memory.js";
import { Options } from "./options.js";
import { mark, unmark } from "./refusal.js";
import { transports } from "./transports.js";

export class Composer {
  #form = byId("composer");
  #prompt = byId("prompt");
  #options = new Options(this.#form.elements);

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
    this.#form.addEventListener("input", ({ target }) => (target.ariaInvalid = null));
    this.#keepTransport();
    if (/Mac|iPhone|iPad/.test(navigator.platform)) byId("keys").firstElementChild.textContent = "⌘";
  }

  get transport() {
    return transports[this.#form.elements.transport.value];
  }

  focus() {
    this.#prompt.focus();
  }

  /** Mark what the API refused, and go to the first of it. */
  refuse(fields) {
    const first = mark(this.#form, fields) ?? this.#prompt;
    if (byId("options").contains(first)) this.#options.show(true);
    first.focus();
  }

  unmark() {
    unmark(this.#form);
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
      if (!isAccepted) return;
      if (this.#prompt.value === sent) this.#prompt.value = "";
      const wasInside = byId("options").contains(document.activeElement);
      this.#options.show(false);
      if (wasInside) this.focus();
    } finally {
      button.ariaDisabled = "false";
    }
  }

  #body() {
    const model = byId("model-field").hidden ? {} : { model: byId("model").value };
    return { prompt: this.#prompt.value, ...model, ...this.#options.values };
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
