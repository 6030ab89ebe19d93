/** How long to wait before the next try: 0.5 s, doubling up to 5 s, or what the API asks for. */

const FIRST_MS = 500;
const LONGEST_MS = 5000;

export class Backoff {
  #next = FIRST_MS;

  /** Return the milliseconds to wait now, `least` of them at least. */
  next(least = 0) {
    const wait = this.#next;
    this.#next = Math.min(this.#next * 2, LONGEST_MS);
    return Math.max(wait, least);
  }

  reset() {
    this.#next = FIRST_MS;
  }
}
