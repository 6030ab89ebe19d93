/** What a screen reader is told: how things stand, never token by token. */

import { byId } from "./dom.js";

export function announce(text) {
  byId("live").textContent = text;
}
