/** The key that the API asks for: it is in this page's memory, and nowhere else. */

import { byId } from "./dom.js";

let key = null;
let asking = null;

export const known = () => key;

/** Return the headers that say who asks. */
export const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});

/** Ask for a key, once however many want one; false where there is none to be had. */
export function ask(message) {
  asking ??= answer(message).finally(() => (asking = null));
  return asking;
}

function answer(message) {
  const dialog = byId("key-dialog");
  const input = byId("key");
  byId("key-said").textContent = message;
  input.value = "";
  return new Promise((resolve) => {
    dialog.addEventListener(
      "close",
      () => {
        const given = dialog.returnValue === "use" ? input.value.trim() : "";
        input.value = "";
        if (given) key = given;
        resolve(Boolean(given));
      },
      { once: true },
    );
    byId("no-key").onclick = () => dialog.close("");
    dialog.returnValue = "";
    dialog.showModal();
  });
}
