import { byId } from "./element.js";
import { say } from "./words.js";

const REFRESH_AFTER_MS = 150;

/**
 * 未读数永远是服务器说的那个数，从不在这里加减。
 *
 * 回答可能乱序到达：比已显示的更早问的，不算。推来的数先显示，随后再问一次记录。
 */
export class UnreadCount {
  #ask;
  #asked = 0;
  #shown = 0;
  #timer = 0;

  /** `ask()` 向服务器要一次未读数。 */
  constructor(ask) {
    this.#ask = ask;
  }

  /** 要问服务器了：先领号，随回答交给 `show`。 */
  begin() {
    return ++this.#asked;
  }

  show(count, ticket = this.begin()) {
    if (ticket < this.#shown) return;
    this.#shown = ticket;
    const badge = byId("unread");
    badge.hidden = count === 0;
    badge.textContent = count > 999 ? "999+" : String(count);
    badge.setAttribute("aria-label", say("unread.badge", { count }));
    byId("read-all").disabled = count === 0;
    document.title = count === 0 ? say("inbox") : `(${count}) ${say("inbox")}`;
  }

  /** 有事发生：稍后问一次；一阵事件只问一次。 */
  refreshSoon() {
    this.#timer ||= setTimeout(() => this.#refresh(), REFRESH_AFTER_MS);
  }

  async #refresh() {
    this.#timer = 0;
    const ticket = this.begin();
    try {
      this.show(await this.#ask(), ticket);
    } catch {
      // 下一件事、下一次重连都会再问；此前显示的仍是服务器说过的数
    }
  }
}
