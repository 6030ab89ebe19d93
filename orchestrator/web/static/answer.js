/** An answer as it grows: appended once a frame, and less often where painting is slow. */

const BLOCK = 8000;
const SHARE = 4;

export class AnswerText {
  #root;
  #painted;
  #waiting = "";
  #frame = 0;
  #timer = 0;
  #tail = null;
  #rest = 0;

  /** `painted` is called after each change on the screen. */
  constructor(root, painted = () => {}) {
    this.#root = root;
    this.#painted = painted;
  }

  append(text) {
    this.#waiting += text;
    if (this.#frame || this.#timer) return;
    const wait = this.#rest - performance.now();
    if (wait > 0) this.#timer = setTimeout(() => this.#schedule(), wait);
    else this.#schedule();
  }

  clear() {
    this.#cancel();
    this.#waiting = "";
    this.#tail = null;
    this.#root.replaceChildren();
  }

  /** Show all that has come, now. */
  flush() {
    this.#cancel();
    this.#paint();
  }

  /** Show exactly this text; what is there stays where it is the same. */
  set(text) {
    this.flush();
    if (this.#root.textContent === text) return;
    this.clear();
    this.append(text);
    this.flush();
  }

  #schedule() {
    this.#timer = 0;
    this.#frame = requestAnimationFrame(() => this.flush());
  }

  #cancel() {
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
    this.#frame = this.#timer = 0;
  }

  #paint() {
    if (!this.#waiting) return;
    const began = performance.now();
    this.#write(this.#waiting);
    this.#waiting = "";
    this.#painted();
    const end = performance.now();
    this.#rest = end + SHARE * (end - began);
  }

  /** Long texts go on in a new block after a line's end, so that laying out stays cheap. */
  #write(text) {
    let from = 0;
    while (from < text.length) {
      const room = Math.max(0, BLOCK - (this.#tail?.length ?? 0));
      const end = text.indexOf("\n", from + room) + 1 || text.length;
      this.#tail ??= this.#newBlock();
      this.#tail.appendData(text.slice(from, end));
      from = end;
      if (text[end - 1] === "\n" && this.#tail.length >= BLOCK) this.#tail = null;
    }
  }

  #newBlock() {
    const block = document.createElement("div");
    const tail = document.createTextNode("");
    block.append(tail);
    this.#root.append(block);
    return tail;
  }
}
