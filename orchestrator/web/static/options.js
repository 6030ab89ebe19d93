/** The options of a request: a panel to set them, and one line of what is set while it is closed. */

import { byId } from "./dom.js";

export class Options {
  #fields;
  #panel = byId("options");
  #line = byId("options-set");

  constructor(fields) {
    this.#fields = fields;
    byId("toggle-options").addEventListener("click", () => this.show(this.#panel.hidden));
  }

  show(isOpen) {
    this.#panel.hidden = !isOpen;
    byId("toggle-options").ariaExpanded = String(isOpen);
    this.#line.textContent = this.#inWords();
    this.#line.hidden = isOpen || !this.#line.textContent;
  }

  /** Return what is set, as the API names and takes it. */
  get values() {
    const { system, max_tokens, temperature, priority } = this.#fields;
    return {
      ...(system.value && { system: system.value }),
      ...(max_tokens.value && { max_tokens: numeric(max_tokens.value) }),
      ...(temperature.value && { temperature: numeric(temperature.value) }),
      ...(priority.value && { priority: priority.value }),
    };
  }

  #inWords() {
    const { system, max_tokens, temperature, priority } = this.values;
    return [
      system && "System text",
      max_tokens && `Max tokens ${max_tokens}`,
      temperature !== undefined && `Temperature ${temperature}`,
      priority && `Priority ${priority}`,
    ]
      .filter(Boolean)
      .join(" · ");
  }
}

const numeric = (text) => (text !== "" && Number.isFinite(Number(text)) ? Number(text) : text);
