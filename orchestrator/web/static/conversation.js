/** The conversation on the page: sends, follows, stops, and comes back after a reload. */

import * as api from "./api.js";
import { announce } from "./announce.js";
import { byId } from "./dom.js";
import { gist } from "./format.js";
import { remember } from "./memory.js";
import { pastTurns } from "./past.js";
import { Turn } from "./turn.js";

const QUEUE_POLL_MS = 1500;
const READ_ALOUD = 600;

export class Conversation {
  #turns = new Map();
  #follows = new Map();
  #painted;
  #changed;
  #fresh = 0;

  /** `painted` is told when an answer grew, `changed` when a request began or ended. */
  constructor({ painted, changed }) {
    this.#painted = painted;
    this.#changed = changed;
    this.sessionId = null;
    this.model = "Answer";
  }

  get liveIds() {
    return [...this.#follows.keys()];
  }

  turn(id) {
    return this.#turns.get(id);
  }

  /** Show another session, and go on with what still runs in it. */
  async open(sessionId, transport) {
    this.#leave();
    this.sessionId = sessionId;
    const fresh = this.#fresh;
    const past = await pastTurns(sessionId);
    if (fresh !== this.#fresh) return;
    const sentMeanwhile = byId("turns").firstChild;
    for (const { request, prompt, body, answer } of past) {
      if (this.#turns.has(request?.request_id)) continue;
      const turn = this.#add({ prompt, body }, sentMeanwhile);
      if (!request) {
        turn.showKept(answer);
        continue;
      }
      this.#turns.set(request.request_id, turn);
      turn.show(request);
      if (turn.isLive) this.#follow(turn, transport);
    }
    this.#changed();
  }

  /** Show an empty session of this id. */
  begin(sessionId) {
    this.#leave();
    this.sessionId = sessionId;
    this.#changed();
  }

  /** Send a prompt. Raises ApiError where it is refused; nothing is shown then. */
  async send(body, transport) {
    const fresh = this.#fresh;
    const id = await transport.submit(body);
    remember(id, body);
    // Following begins in the same turn of the event loop as the ack, so no token is missed.
    if (fresh === this.#fresh) this.#show(id, body, transport);
    this.#changed();
  }

  /** Cancel all that runs or waits in this conversation. Raises ApiError. */
  async stop() {
    const outcomes = await Promise.allSettled(this.liveIds.map((id) => api.cancel(id)));
    const failed = outcomes.find(({ status }) => status === "rejected");
    if (failed) throw failed.reason;
  }

  #show(id, body, transport) {
    const turn = this.#add({ prompt: body.prompt, body });
    this.#turns.set(id, turn);
    const created_at = new Date().toISOString();
    const model = body.model ?? this.model;
    turn.show({ request_id: id, session_id: this.sessionId, status: "pending", model, created_at });
    this.#follow(turn, transport);
    this.#painted();
    announce("Sent. The answer is on its way.");
  }

  #add(parts, before = null) {
    const turn = new Turn({ ...parts, painted: this.#painted });
    byId("turns").insertBefore(turn.element, before);
    return turn;
  }

  #leave() {
    this.#fresh += 1;
    for (const stop of this.#follows.values()) stop();
    this.#follows.clear();
    this.#turns.clear();
    byId("turns").replaceChildren();
  }

  #follow(turn, transport) {
    const listener = {
      started: () => turn.started(),
      token: (text) => turn.token(text),
      restarted: () => turn.restarted(),
      connected: (isUp) => this.#connected(turn, isUp),
      ended: (outcome) => this.#ended(turn, outcome),
    };
    this.#follows.set(turn.id, transport.follow(turn.id, listener));
    setTimeout(() => this.#watchQueue(turn), QUEUE_POLL_MS);
  }

  #connected(turn, isUp) {
    turn.connected(isUp);
    if (!isUp) announce("The connection was lost. Reconnecting.");
  }

  async #ended(turn, outcome) {
    this.#follows.delete(turn.id);
    turn.ended(outcome);
    announce(spoken(turn, outcome));
    const request = await api.status(turn.id).catch(() => null);
    if (request) turn.show(request);
    this.#changed();
  }

  /** While a request waits, say now and then how many are ahead of it. */
  async #watchQueue(turn) {
    if (turn.status !== "pending" || this.#turns.get(turn.id) !== turn) return;
    let wait = QUEUE_POLL_MS;
    try {
      const request = await api.status(turn.id);
      if (request.status === "pending" && turn.status === "pending") turn.show(request);
    } catch (error) {
      wait = Math.max(wait, error.retryMs);
    }
    setTimeout(() => this.#watchQueue(turn), wait);
  }
}

function spoken(turn, { status, error }) {
  if (status === "cancelled") return "Stopped.";
  if (status !== "completed") return `The request failed. ${error?.message ?? ""}`;
  const { text } = turn;
  return text.length > READ_ALOUD ? `Answer complete. ${gist(text)}` : `Answer complete. ${text}`;
}
