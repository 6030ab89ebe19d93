/** An error as the API said it: its code, its message, and each field with what is wrong. */

import { element } from "./dom.js";

export function showFault(root, { code, message, fields = {}, status = null }) {
  const head = element("p", "", "fault-head");
  head.append(element("code", code ?? "ERROR"));
  if (status) head.append(element("span", `HTTP ${status}`));
  const entries = Object.entries(fields).map(([name, told]) => [name, [told].flat().map(inWords)]);
  const isOfField = entries.some(([name, [first]]) => message === `${name}: ${first}`);
  root.replaceChildren(head);
  if (!isOfField) root.append(element("p", message));
  if (entries.length) root.append(fieldList(entries));
}

function fieldList(entries) {
  const list = element("dl");
  for (const [name, messages] of entries) {
    const told = element("dd", messages.join(" "));
    told.id = `refused-${name}`;
    const term = element("dt");
    term.append(element("code", name));
    list.append(term, told);
  }
  return list;
}

const inWords = (message) => (typeof message === "string" ? message : JSON.stringify(message));
