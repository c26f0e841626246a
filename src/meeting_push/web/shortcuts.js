import { byId } from "./element.js";

/** 单个的键：在写字的地方、按着别的键时都不算。`acts`：键 → 做什么。 */
export function bindShortcuts(acts) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    if (byId("app").hidden || byId("shortcuts").open) return;
    if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  const help = byId("shortcuts");
  byId("shortcuts-close").addEventListener("click", () => help.close());
  help.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation(); // 只收起它
    help.close();
  });
}
