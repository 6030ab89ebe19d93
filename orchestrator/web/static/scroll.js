/** Keeps the end of the conversation in sight, unless the reader has gone up to read. */

import { byId } from "./dom.js";

const NEAR = 96;

export class Scroll {
  #isPinned = true;

  constructor() {
    addEventListener("scroll", () => this.#look(), { passive: true });
    byId("latest").addEventListener("click", () => this.pin());
  }

  /** Go to the end, and stay there. */
  pin() {
    this.#isPinned = true;
    this.follow();
  }

  /** Stay where the reader looks. */
  release() {
    this.#isPinned = false;
  }

  /** To be called when the conversation has grown. */
  follow() {
    if (this.#isPinned) scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
    else this.#look();
  }

  #look() {
    const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
    this.#isPinned = scrollHeight - clientHeight - scrollTop < NEAR;
    byId("latest").hidden = this.#isPinned;
  }
}
