import { byId } from "./element.js";

const PANES = ["empty", "message", "compose", "delivery"];

/**
 * 右边的一栏（手机上盖住列表）。打开即入浏览历史：手机的返回键关上它。
 */
export class Panes {
  #onClose;
  #current = "empty";

  constructor(onClose) {
    this.#onClose = onClose;
    history.replaceState(null, "");
    window.addEventListener("popstate", () => this.#show("empty"));
    for (const button of document.querySelectorAll("[data-close-pane]")) {
      button.addEventListener("click", () => this.close());
    }
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.close();
    });
  }

  get current() {
    return this.#current;
  }

  /** 显示 `name`，把焦点交给 `focusOn`。 */
  open(name, focusOn) {
    if (this.#current === "empty") history.pushState({ pane: true }, "");
    this.#show(name);
    focusOn.focus({ preventScroll: true });
  }

  close() {
    if (this.#current !== "empty") history.back();
  }

  /** 换人登录时：不留下上一个人的任何一栏。 */
  reset() {
    this.#current = "empty";
    this.#reveal();
  }

  #show(name) {
    const previous = this.#current;
    this.#current = name;
    this.#reveal();
    if (name === "empty" && previous !== "empty") this.#onClose(previous);
  }

  #reveal() {
    for (const pane of PANES) byId(`pane-${pane}`).hidden = pane !== this.#current;
    byId("app").dataset.pane = this.#current;
    byId("pane").scrollTop = 0;
  }
}
