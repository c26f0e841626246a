import { byId } from "./element.js";
import { say } from "./words.js";

const TYPE_DELAY_MS = 250;
const VIEWS = {
  inbox: {},
  unread: { unread: true },
  archived: { archived: true },
};
const FILTERS = {
  all: {},
  urgent: { min_priority: 5 },
  message: { message_type: "message" },
  notification: { message_type: "notification" },
  system: { message_type: "system" },
};

/** 看哪些：哪一格、哪一种、找什么。 */
export class Views {
  name = "inbox";
  #onChange;
  #timer = 0;

  /** `onChange(名字, 条件)`；自己发的没有条件。 */
  constructor(onChange) {
    this.#onChange = onChange;
    for (const button of this.#buttons()) {
      button.addEventListener("click", () => this.choose(button.dataset.view));
    }
    byId("filter").addEventListener("change", () => this.#changed());
    byId("search").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#changed(), TYPE_DELAY_MS);
    });
    byId("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#changed();
    });
  }

  get wanted() {
    const q = byId("search").value.trim().slice(0, 100);
    return { ...VIEWS[this.name], ...FILTERS[byId("filter").value], ...(q ? { q } : {}) };
  }

  get narrowed() {
    return this.name !== "inbox" || Object.keys(this.wanted).length > 0;
  }

  choose(name) {
    this.name = name;
    this.#changed();
  }

  /** 换了人：从头。 */
  reset() {
    this.name = "inbox";
    byId("search").value = "";
    byId("filter").value = "all";
    this.#show();
  }

  showCounts({ unread, urgent, archived }) {
    const numbers = { unread, archived };
    for (const button of this.#buttons()) {
      const count = numbers[button.dataset.view];
      button.querySelector(".view-count").textContent = count ? String(count) : "";
    }
    const filter = byId("filter").querySelector("[value=urgent]");
    filter.textContent = urgent ? `${say("urgent")} (${urgent})` : say("urgent");
  }

  #changed() {
    clearTimeout(this.#timer);
    this.#show();
    this.#onChange(this.name, this.wanted);
  }

  #show() {
    for (const button of this.#buttons()) {
      if (button.dataset.view === this.name) button.setAttribute("aria-current", "page");
      else button.removeAttribute("aria-current");
    }
    byId("search-form").hidden = this.name === "sent";
  }

  #buttons() {
    return document.querySelectorAll("[data-view]");
  }
}
