/** The list of earlier requests, newest first. */

import * as api from "./api.js";
import { byId, clone, part } from "./dom.js";
import { figures } from "./facts.js";
import { brief, clock, exactly, gist } from "./format.js";
import { recall } from "./memory.js";
import { isLive } from "./status.js";

const PAGE = 12;
const LIVE_POLL_MS = 3000;

export class History {
  #requests = [];
  #rows = new Map();
  #cursor = null;
  #timer = 0;
  #sessionId = null;
  #failed;

  /** `failed` is told of errors. */
  constructor({ failed }) {
    this.#failed = failed;
    byId("refresh").addEventListener("click", () => this.refresh());
    byId("older").addEventListener("click", () => this.#older());
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
  }

  /** Mark the requests of a session as those on the page. */
  mark(sessionId) {
    this.#sessionId = sessionId;
    this.#show();
  }

  /** Ask for the newest requests; while one of them is live, ask again soon. */
  async refresh() {
    clearTimeout(this.#timer);
    const page = await this.#load({ limit: PAGE });
    if (!page) return;
    this.#takeNewest(page);
    this.#show();
    if (!document.hidden && page.data.some(({ status }) => isLive(status))) {
      this.#again(LIVE_POLL_MS);
    }
  }

  /** What older pages brought stays below the newest page, where the two meet. */
  #takeNewest({ data, next_cursor: cursor }) {
    const last = data.at(-1)?.request_id;
    const met = this.#requests.findIndex(({ request_id: id }) => id === last);
    const older = met < 0 ? [] : this.#requests.slice(met + 1);
    this.#requests = [...data, ...older];
    if (!older.length) this.#cursor = cursor;
  }

  #again(wait) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), wait);
  }

  async #older() {
    const page = await this.#load({ limit: PAGE, cursor: this.#cursor });
    if (!page) return;
    this.#requests.push(...page.data);
    this.#cursor = page.next_cursor;
    this.#show();
  }

  async #load(parameters) {
    try {
      return await api.requests(parameters);
    } catch (error) {
      this.#failed(error);
      if (error.retryMs) this.#again(error.retryMs);
      return null;
    }
  }

  #show() {
    const rows = this.#requests.map((request) => this.#row(request));
    this.#rows = new Map(rows.map((row) => [row.dataset.id, row]));
    this.#place(rows);
    byId("history-empty").hidden = this.#requests.length > 0;
    byId("history-unknown").hidden = !rows.some((row) => row.querySelector(".unknown"));
    byId("older").hidden = !this.#cursor;
  }

  /** Rows that stay are not touched, so that a click or the focus on one isn't lost. */
  #place(rows) {
    const list = byId("requests");
    const isSame = rows.length === list.children.length && rows.every((row) => list.contains(row));
    if (isSame) return;
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    list.replaceChildren(...rows);
    focused?.focus();
  }

  #row(request) {
    const { request_id: id, session_id: session } = request;
    const row = this.#rows.get(id) ?? clone("request-template");
    row.dataset.id = id;
    const link = row.firstElementChild;
    link.href = `#${new URLSearchParams({ session, request: id })}`;
    link.ariaCurrent = session === this.#sessionId ? "true" : null;
    const prompt = gist(recall(id)?.prompt ?? "");
    part(row, "title").textContent = prompt || `Session ${brief(session)}`;
    part(row, "title").classList.toggle("unknown", !prompt);
    part(row, "figures").textContent = figures(request);
    part(row, "time").textContent = clock(request.created_at);
    part(row, "time").dateTime = request.created_at;
    part(row, "time").title = exactly(request.created_at);
    part(row, "chip").textContent = request.status;
    part(row, "chip").dataset.status = request.status;
    return row;
  }
}
