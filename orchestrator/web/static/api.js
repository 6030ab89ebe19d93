/** The REST part of the API, as the playground needs it. */

import * as key from "./key.js";

export const base = new URL("api/v1/", document.baseURI);

/** An answer that is not a success, as the API said it. */
export class ApiError extends Error {
  /** `retryAfter` is in seconds, as the API says it. */
  constructor(code, message, details = {}, status = null, retryAfter = 0) {
    super(message);
    this.code = code;
    this.fields = details?.fields ?? {};
    this.status = status;
    this.retryMs = (Number(retryAfter) || 0) * 1000;
  }
}

/** No answer at all. The words are ours, since the API said nothing. */
export class Unreachable extends ApiError {
  constructor(message = "The server can't be reached. Check that it runs, and try again.") {
    super("UNREACHABLE", message);
  }
}

async function call(path, options = {}) {
  let response;
  try {
    const headers = { ...options.headers, ...key.headers() };
    response = await fetch(new URL(path, base), { ...options, headers });
  } catch {
    throw new Unreachable();
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body !== null) return body;
  if (response.status === 401 && (await key.ask(body?.error?.message ?? ""))) {
    return call(path, options);
  }
  const said = body?.error ?? { code: `HTTP ${response.status}`, message: response.statusText };
  const again = response.headers.get("Retry-After");
  throw new ApiError(said.code, said.message, said.details, response.status, again);
}

const query = (parameters) =>
  new URLSearchParams(Object.entries(parameters).filter(([, value]) => value)).toString();

export const submit = (body) =>
  call("infer", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });

export const status = (id) => call(`status/${encodeURIComponent(id)}`);
export const cancel = (id) => call(`cancel/${encodeURIComponent(id)}`, { method: "POST" });
export const models = () => call("models");
export const session = (id) => call(`sessions/${encodeURIComponent(id)}`);
export const requests = (parameters) => call(`requests?${query(parameters)}`);

/** Return what opens the stream of a request once, since an EventSource can send no headers. */
export async function streamToken(id) {
  if (!key.known()) return null;
  const { token } = await call(`stream-token/${encodeURIComponent(id)}`, { method: "POST" });
  return token;
}

/** Return the address of a request's event stream, from after an event where one is given. */
export function streamUrl(id, after = null, token = null) {
  const url = new URL(`stream/${encodeURIComponent(id)}`, base);
  if (after !== null) url.searchParams.set("after", after);
  if (token) url.searchParams.set("token", token);
  return url;
}

/** Return the address of the WebSocket door. */
export function socketUrl() {
  const url = new URL("ws", base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url;
}
