/** An error as the API said it: its code, its message, and each field with what is wrong. */

import { element } from "./dom.js";

export function showFault(root, { code, message, fields = {}, status = null }) {
  const head = element("p", "", "fault-head");
  head.append(element("code", code ?? "ERROR"));
  if (status) head.append(element("span", `HTTP ${status}`));
  root.replaceChildren(head, element("p", message));
  const entries = Object.entries(fields);
  const isSaid = entries.length === 1 && message === `${entries[0][0]}: ${entries[0][1]}`;
  if (entries.length && !isSaid) root.append(fieldList(entries));
}

function fieldList(entries) {
  const list = element("dl");
  for (const [name, messages] of entries) {
    const told = element("dd", [messages].flat().map(inWords).join(" "));
    const term = element("dt");
    term.append(element("code", name));
    list.append(term, told);
  }
  return list;
}

const inWords = (message) => (typeof message === "string" ? message : JSON.stringify(message));
