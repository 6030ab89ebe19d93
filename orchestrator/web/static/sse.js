/** Answers over SSE: submit by POST, then an EventSource that comes back where it was cut. */

import * as api from "./api.js";
import { Backoff } from "./backoff.js";
import { endOf, isLive } from "./status.js";

/** A browser opens six connections to a server, over all tabs, and Stop needs one too. */
const STREAMS = 2;

export class SseTransport {
  #line = [];

  async submit(body) {
    const { request_id: id } = await api.submit({ ...body, stream: true });
    return id;
  }

  /** Requests of a session run in order, so what stands in line here has nothing to tell yet. */
  follow(id, listener) {
    const stream = new Stream(id, {
      ...listener,
      ended: (outcome) => {
        this.#leave(stream);
        listener.ended(outcome);
      },
    });
    this.#line.push(stream);
    this.#advance();
    return () => this.#leave(stream);
  }

  #leave(stream) {
    stream.close();
    this.#line = this.#line.filter((other) => other !== stream);
    this.#advance();
  }

  #advance() {
    for (const stream of this.#line.slice(0, STREAMS)) stream.open();
  }
}

class Stream {
  #id;
  #listener;
  #source = null;
  #timer = 0;
  #opened = false;
  #closed = false;
  #last = null;
  #backoff = new Backoff();

  constructor(id, listener) {
    this.#id = id;
    this.#listener = listener;
  }

  open() {
    if (this.#opened) return;
    this.#opened = true;
    this.#connect();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#source?.close();
  }

  async #connect() {
    let token;
    try {
      token = await api.streamToken(this.#id);
    } catch (error) {
      this.#retry(error.retryMs);
      return;
    }
    if (this.#closed) return;
    const source = new EventSource(api.streamUrl(this.#id, this.#last, token));
    this.#source = source;
    const on = (name, heard) =>
      source.addEventListener(name, (event) => {
        this.#last = event.lastEventId;
        heard(JSON.parse(event.data));
      });
    source.addEventListener("open", () => {
      this.#backoff.reset();
      this.#listener.connected(true);
    });
    source.addEventListener("error", () => this.#cut());
    on("start", () => this.#listener.started());
    on("token", ({ data }) => this.#listener.token(data));
    on("restart", () => this.#listener.restarted());
    on("complete", (data) => this.#listener.ended(endOf(data)));
  }

  /**
   * A cut connection is retried by the browser itself, and a refusal is looked into: the token of
   * a stream that was cut is used up.
   */
  #cut() {
    if (this.#closed) return;
    this.#listener.connected(false);
    if (this.#source.readyState === EventSource.CLOSED) this.#retry();
  }

  #retry(least = 0) {
    if (this.#closed) return;
    this.#timer = setTimeout(() => this.#investigate(), this.#backoff.next(least));
  }

  async #investigate() {
    try {
      const request = await api.status(this.#id);
      if (this.#closed) return;
      if (isLive(request.status)) this.#connect();
      else this.#listener.ended(endOf(request));
    } catch (error) {
      if (this.#closed) return;
      if (error.status === 404) this.#listener.ended({ status: "gone", error });
      else this.#retry(error.retryMs);
    }
  }
}
