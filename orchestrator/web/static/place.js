/** Which session the address names: #session=…, and &request=… for one of its requests. */

/** Return {session, request} of the address; each is null where it isn't named. */
export function place() {
  const named = new URLSearchParams(location.hash.slice(1));
  return { session: named.get("session"), request: named.get("request") };
}

/** Name the session in the address, so that a reload finds it. */
export function keep(session) {
  const hash = `#${new URLSearchParams({ session })}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
}

/** Leave the session behind; Back returns to it. */
export function leave() {
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
}

/** Return a new random session id: a UUID, made without what only secure contexts have. */
export function newSession() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}
