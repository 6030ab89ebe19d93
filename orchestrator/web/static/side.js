/** The side column, which is a drawer on narrow screens. */

import { byId } from "./dom.js";

const narrow = matchMedia("(max-width: 55rem)");

export function setUpSide() {
  const side = byId("side");
  const show = (isOpen) => {
    const isDrawer = narrow.matches;
    side.classList.toggle("open", isDrawer && isOpen);
    side.inert = isDrawer && !isOpen;
    document.querySelector(".page").inert = isDrawer && isOpen;
    byId("shade").hidden = !(isDrawer && isOpen);
    byId("open-side").ariaExpanded = String(isOpen);
  };
  const close = () => {
    if (!side.classList.contains("open")) return;
    show(false);
    byId("open-side").focus();
  };
  byId("open-side").addEventListener("click", () => {
    show(true);
    byId("close-side").focus();
  });
  byId("close-side").addEventListener("click", close);
  byId("shade").addEventListener("click", close);
  byId("requests").addEventListener("click", close);
  addEventListener("keydown", ({ key }) => key === "Escape" && close());
  narrow.addEventListener("change", () => show(false));
  show(false);
}
