/** 运维页：登录、导航、语言与外观；每一屏在自己的文件里。 */

import { byId, element } from "../element.js";
import { Session } from "../session.js";
import { choose, explain, fillWords, language, learn, say } from "../words.js";
import { showAlert, showAlerts } from "./alerts.js";
import { showFailures } from "./failures.js";
import { Live } from "./live.js";
import { showLogs } from "./logs.js";
import { showMessage } from "./message.js";
import { showNodes } from "./nodes.js";
import { showOverview } from "./overview.js";
import { showMailboxes, showUser } from "./user.js";
import { opsWords } from "./words.js";

const THEME_KEPT_AS = "meeting-push.theme";
const THEMES = ["system", "light", "dark"];

/** 片段里的名字 → 那一屏；没有 `tab` 的由别的屏打开。次序就是导航的次序，也是数字键。 */
const VIEWS = {
  overview: { show: showOverview, tab: true },
  nodes: { show: showNodes, tab: true },
  alerts: { show: showAlerts, tab: true },
  failures: { show: showFailures, tab: true },
  mailboxes: { show: showMailboxes, tab: true },
  user: { show: showUser, tab: true },
  message: { show: showMessage, tab: true },
  logs: { show: showLogs, tab: true },
  alert: { show: showAlert, tab: false, under: "alerts" },
};
const TABS = Object.keys(VIEWS).filter((name) => VIEWS[name].tab);

class OpsPage {
  #session = new Session();
  #live = null;
  /** 换一屏就中止：它的定时器、请求、监听都随之而去。 */
  #shown = new AbortController();

  start() {
    this.#applyTheme();
    this.#session.addEventListener("ended", () => this.#live && this.#leave(say("signin.ended")));
    byId("account-form").addEventListener("submit", (event) => this.#signIn(event));
    byId("token-form").addEventListener("submit", (event) => this.#adopt(event));
    byId("sign-out").addEventListener("click", () => this.#signOut());
    byId("language").addEventListener("click", () => choose(language === "zh" ? "en" : "zh"));
    byId("theme").addEventListener("click", () => this.#nextTheme());
    window.addEventListener("hashchange", () => this.#live && this.#open());
    document.addEventListener("keydown", (event) => this.#key(event));
    byId("views").append(...TABS.map(tab));
    this.#session.restore();
    if (this.#session.user) this.#enter();
    else this.#leave("");
    document.documentElement.classList.remove("starting");
  }

  // ── 登录 ──────────────────────────────────────────────────────────────────

  async #signIn(event) {
    event.preventDefault();
    await this.#trying(byId("account-submit"), () =>
      this.#session.signIn(byId("username").value.trim(), byId("password").value),
    );
  }

  /** 粘贴的令牌：留在这个标签页里，从不进地址。 */
  async #adopt(event) {
    event.preventDefault();
    await this.#trying(byId("token-submit"), () => this.#session.paste(byId("token").value));
  }

  async #trying(button, act) {
    button.disabled = true;
    this.#complain("");
    try {
      await act();
      await this.#session.call("GET", "stats"); // 不是管理员：留在门外
      for (const id of ["account-form", "token-form"]) byId(id).reset();
      this.#enter();
    } catch (error) {
      this.#session.forget();
      this.#complain(refusal(error));
    } finally {
      button.disabled = false;
    }
  }

  async #enter() {
    const { name, userId } = this.#session.user;
    const unnamed = userId === null ? say("ops.key") : say("sender.unknown", { id: userId });
    byId("you-name").textContent = name || unnamed;
    byId("signin").hidden = true;
    byId("app").hidden = false;
    this.#live = new Live(this.#session);
    this.#live.addEventListener("mode", () => this.#showMode());
    this.#live.addEventListener("messages", () => this.#showInbox());
    this.#live.addEventListener("figures", () => this.#showFiring());
    this.#live.addEventListener("refused", ({ detail }) => this.#leave(refusal(detail)));
    this.#live.start();
    this.#showMode();
    this.#showInbox();
    this.#open();
  }

  async #signOut() {
    this.#live.stop();
    await this.#session.signOut();
    this.#leave("");
  }

  #leave(reason) {
    this.#shown.abort();
    this.#live?.stop();
    this.#live = null;
    this.#session.forget();
    byId("view").replaceChildren();
    byId("app").hidden = true;
    byId("signin").hidden = false;
    document.title = say("ops");
    this.#complain(reason);
    byId("username").focus();
  }

  #complain(text) {
    byId("signin-error").textContent = text;
    byId("signin-error").hidden = text === "";
  }

  // ── 顶栏 ──────────────────────────────────────────────────────────────────

  #showMode() {
    const { mode } = this.#live;
    byId("connection").dataset.state = mode;
    byId("connection-label").textContent = say(`ops.mode.${mode}`);
    byId("connection").title = say(`ops.mode.${mode}.hint`);
  }

  /** 本人的消息在这条连接上也到了：有几条，到收件箱去看。 */
  #showInbox() {
    const { messages: count } = this.#live;
    byId("inbox-link").textContent = count ? say("ops.inbox.new", { count }) : say("inbox");
    byId("inbox-link").classList.toggle("fresh", count > 0);
  }

  #showFiring() {
    const count = this.#live.figures.alerts_firing;
    const badge = document.querySelector('#views [data-view="alerts"] .count');
    badge.hidden = !count;
    badge.textContent = count ?? "";
  }

  #applyTheme() {
    const theme = localStorage.getItem(THEME_KEPT_AS) ?? "system";
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    byId("theme").textContent = say(`ops.theme.${theme}`);
    byId("theme").title = say("ops.theme.hint");
  }

  #nextTheme() {
    const now = localStorage.getItem(THEME_KEPT_AS) ?? "system";
    localStorage.setItem(THEME_KEPT_AS, THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
    this.#applyTheme();
    if (this.#live) this.#open(); // 画布上的颜色是画的时候取的
  }

  // ── 一屏一屏 ──────────────────────────────────────────────────────────────

  #open() {
    const [name, ...args] = location.hash.slice(1).split("/").map(decodeSafely);
    const view = VIEWS[name] ? name : "overview";
    this.#shown.abort();
    this.#shown = new AbortController();
    const [session, live, { signal }] = [this.#session, this.#live, this.#shown];
    const heading = element("h1", { textContent: say(`ops.view.${view}`), tabIndex: -1 });
    const shown = VIEWS[view].show(
      { session, live, signal, call: (...call) => session.call(...call) },
      args,
    );
    byId("view").replaceChildren(heading, ...shown);
    byId("view").dataset.view = view;
    byId("view").scrollTop = 0;
    document.title = `${say(`ops.view.${view}`)} · ${say("ops")}`;
    const current = VIEWS[view].under ?? view;
    for (const link of document.querySelectorAll("#views a")) {
      if (link.dataset.view === current) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.querySelector("#views [aria-current]").scrollIntoView({ inline: "nearest", block: "nearest" });
    this.#showFiring();
  }

  /** 1–8：那一屏；在填字时不管。 */
  #key(event) {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (typing || !this.#live || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = TABS[Number(event.key) - 1];
    if (!name) return;
    location.hash = `#${name}`;
    byId("view").focus({ preventScroll: true });
  }
}

function tab(name, index) {
  const text = say(`ops.view.${name}`);
  return element(
    "a",
    { href: `#${name}`, data: { view: name }, title: say("ops.key", { key: index + 1 }) },
    element("span", { textContent: text }),
    element("span", { className: "count", hidden: true }),
  );
}

/** 地址是人可以改的：坏的百分号不该让页面停住。 */
function decodeSafely(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function refusal(error) {
  if (error.status === 403) return say("ops.forbidden");
  if (error.status === 404) return say("no_accounts");
  if (error.code === "session_expired") return say("token.refused");
  return explain(error);
}

learn(opsWords);
fillWords(document);
new OpsPage().start();
