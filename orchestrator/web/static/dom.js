/** Helpers for building the page. Text only ever becomes text: nothing here parses HTML. */

export const byId = (id) => document.getElementById(id);

/** Return the named part of a cloned template. */
export const part = (root, name) => root.querySelector(`[data-part="${name}"]`);

/** Return a fresh copy of what a template holds. */
export const clone = (id) => byId(id).content.firstElementChild.cloneNode(true);

/** Return a new element with its text and class. */
export function element(tag, text = "", className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}
