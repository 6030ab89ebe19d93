/** Answers over one WebSocket: submits and follows many requests, and reconnects by itself. */

import { ApiError, models, socketUrl } from "./api.js";
import * as key from "./key.js";
import { Backoff } from "./backoff.js";

const PULSE_MS = 15_000;
const GONE = new Set(["NOT_FOUND", "RESULT_EXPIRED"]);

export class SocketTransport {
  #socket = null;
  #submits = new Map();
  #follows = new Map();
  #streaming = new Set();
  #refs = 0;
  #heard = 0;
  #asked = 0;
  #timer = 0;
  #backoff = new Backoff();

  constructor() {
    setInterval(() => this.#checkPulse(), PULSE_MS);
    addEventListener("online", () => this.#socket || this.#resume());
  }

  submit(body) {
    return new Promise((resolve, reject) => {
      const ref = `playground-${++this.#refs}`;
      this.#submits.set(ref, { resolve, reject });
      this.#send({ ...body, stream: true, ref });
    });
  }

  follow(id, listener) {
    this.#follows.set(id, { listener, last: null });
    // What was submitted on this socket streams already: its ack came just before.
    if (!this.#streaming.has(id)) this.#subscribe(id);
    return () => this.#unfollow(id);
  }

  #subscribe(id) {
    const { last } = this.#follows.get(id);
    this.#send({ type: "subscribe", request_id: id, ...(last !== null && { after: last }) });
  }

  #unfollow(id) {
    if (!this.#follows.delete(id)) return;
    this.#streaming.delete(id);
    if (this.#isOpen()) this.#send({ type: "unsubscribe", request_id: id });
  }

  #isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  #send(frame) {
    if (this.#isOpen()) this.#socket.send(JSON.stringify(frame));
    else this.#open().addEventListener("open", () => this.#socket.send(JSON.stringify(frame)));
  }

  /** Return the socket, a new one where none is open or opening. */
  #open() {
    clearTimeout(this.#timer);
    if (this.#socket) return this.#socket;
    const socket = new WebSocket(socketUrl());
    this.#socket = socket;
    socket.addEventListener("open", () => this.#opened(socket));
    socket.addEventListener("message", ({ data }) => this.#hear(JSON.parse(data)));
    socket.addEventListener("close", (event) => this.#lost(socket, event));
    return socket;
  }

  #opened(socket) {
    // Before all that waits for the socket to open: it says who asks.
    if (key.known()) socket.send(JSON.stringify({ type: "auth", token: key.known() }));
    this.#asked = 0;
    this.#backoff.reset();
    for (const { listener } of this.#follows.values()) listener.connected(true);
  }

  #lost(socket, { code, reason }) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    this.#streaming.clear();
    if (this.#submits.size) reject([...this.#submits.values()], code, reason);
    this.#submits.clear();
    for (const { listener } of this.#follows.values()) listener.connected(false);
    if (this.#follows.size) {
      this.#timer = setTimeout(() => this.#resume(), this.#backoff.next());
    }
  }

  #resume() {
    for (const id of this.#follows.keys()) this.#subscribe(id);
  }

  /** A dead network closes nothing: ask now and then, and give up on a socket that is mute. */
  #checkPulse() {
    if (!this.#isOpen() || !this.#follows.size) return;
    if (this.#asked > this.#heard) {
      const mute = this.#socket;
      mute.close();
      this.#lost(mute, { code: 1006, reason: "" });
    } else {
      this.#asked = Date.now();
      this.#send({ type: "ping" });
    }
  }

  #hear(frame) {
    this.#heard = Date.now();
    if (frame.ref && this.#submits.has(frame.ref)) this.#answer(frame);
    else this.#pass(frame);
  }

  #answer({ ref, type, request_id: id, code, message, fields }) {
    const { resolve, reject } = this.#submits.get(ref);
    this.#submits.delete(ref);
    if (type === "ack") {
      this.#streaming.add(id);
      resolve(id);
    } else {
      reject(new ApiError(code, message, { fields }));
    }
  }

  #pass(frame) {
    const follow = this.#follows.get(frame.request_id);
    if (!follow) return;
    if (frame.seq !== undefined) follow.last = frame.seq;
    const { listener } = follow;
    if (frame.type === "start") listener.started();
    else if (frame.type === "token") listener.token(frame.data);
    else if (frame.type === "restart") listener.restarted();
    else if (frame.type === "result") this.#end(frame.request_id, { status: "completed" });
    else if (frame.code === "RATE_LIMITED") this.#subscribeLater(frame);
    else if (frame.type === "error") this.#end(frame.request_id, failure(frame));
  }

  /** A limit of the caller refused to follow: the request itself goes on. */
  #subscribeLater({ request_id: id, retry_after: seconds = 1 }) {
    const follow = this.#follows.get(id);
    const again = () => this.#follows.get(id) === follow && this.#subscribe(id);
    setTimeout(again, seconds * 1000);
  }

  #end(id, outcome) {
    const { listener } = this.#follows.get(id);
    this.#follows.delete(id);
    this.#streaming.delete(id);
    listener.ended(outcome);
  }
}

async function reject(submits, code, reason) {
  const said = reason || "The server closed the socket.";
  const error = code === 1006 ? await whyNot() : new ApiError(`CLOSED ${code}`, said);
  for (const submit of submits) submit.reject(error);
}

/** Browsers don't tell why there is no socket; the answer to another call may. */
async function whyNot() {
  try {
    await models();
  } catch (error) {
    return error;
  }
  return new ApiError("NO SOCKET", "The WebSocket was refused, or broke off. Try again, or use SSE.");
}

function failure({ code, message }) {
  if (code === "CANCELLED") return { status: "cancelled" };
  return { status: GONE.has(code) ? "gone" : "failed", error: { code, message } };
}
