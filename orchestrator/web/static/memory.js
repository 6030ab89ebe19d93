/** What this tab remembers over a reload: what it sent, so that prompts can be shown again. */

const LONGEST = 200_000;
const PREFERRED = "transport";

const key = (id) => `request:${id}`;

/** Keep a request's body. A full storage, or one the browser denies, keeps nothing. */
export function remember(id, body) {
  const json = JSON.stringify(body);
  if (json.length > LONGEST) return;
  try {
    sessionStorage.setItem(key(id), json);
  } catch {
    forgetOldest();
  }
}

export function recall(id) {
  try {
    return JSON.parse(sessionStorage.getItem(key(id)));
  } catch {
    return null;
  }
}

/** Ids are ordered by time, so the first half by name is the older half. */
function forgetOldest() {
  const kept = Object.keys(globalThis.sessionStorage ?? {}).filter((name) => name.startsWith(key("")));
  for (const name of kept.sort().slice(0, Math.ceil(kept.length / 2))) sessionStorage.removeItem(name);
}

/** Get and set the way answers arrive, over visits. */
export const transport = {
  get: () => {
    try {
      return localStorage.getItem(PREFERRED);
    } catch {
      return null;
    }
  },
  set: (name) => {
    try {
      localStorage.setItem(PREFERRED, name);
    } catch {
      // The choice then lasts as long as the page.
    }
  },
};
