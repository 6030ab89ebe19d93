/** The rhythm of an answer: one tick for each moment at which tokens came, along its time. */

const PLACES = 400;
const SHORTEST_MS = 1000;

export class Rhythm {
  #path;
  #began = performance.now();
  #times = [];

  /** `svg` has one path and is as wide as its viewBox: 400 units. */
  constructor(svg) {
    this.#path = svg.firstElementChild;
  }

  mark() {
    this.#times.push(performance.now() - this.#began);
  }

  clear() {
    this.#times = [];
    this.#draw(SHORTEST_MS);
  }

  /** Draw what came so far; the scale doubles when it is full, so that ticks stay in place. */
  draw() {
    let span = SHORTEST_MS;
    while (span < this.#times.at(-1)) span *= 2;
    this.#draw(span);
  }

  /** Draw the whole, as wide as it took. */
  end() {
    if (this.#times.length) this.#draw(this.#times.at(-1));
  }

  #draw(span) {
    const places = new Set(this.#times.map((time) => Math.round((time / span) * PLACES)));
    this.#path.setAttribute("d", [...places].map((place) => `M${place} 0V1`).join(""));
  }
}
