/**
 * 登录：令牌只在 sessionStorage 里，随标签页消失。
 *
 * 刷新令牌只能用一次，再用会被当作失窃而吊销。浏览器“复制标签页”会连 sessionStorage 一起复制，
 * 所以新打开的页面先问一声别的标签页：有人持有同一份，就把刷新令牌留给它。没有登录的新标签页向登录着
 * 的借访问令牌（BroadcastChannel 只在同源的页面之间），刷新令牌不出那个标签页。
 */

import { callRest, RestError } from "./rest.js";

const STORAGE_KEY = "meeting-push.session";
const CHANNEL = "meeting-push.session";
/** API 密钥的开头。 */
const KEY_PREFIX = "mpk_";
/** 等别的标签页回答多久。 */
const ASK_MS = 300;
/** 借的令牌到期了，等借出的那个标签页换好。 */
const LEND_MS = 5_000;
/** 令牌的寿命过了这么多就换：请求在路上也要时间。 */
const RENEW_AFTER = 0.9;

export class Session extends EventTarget {
  #kept = null;
  #refreshing = null;
  #channel = new BroadcastChannel(CHANNEL);
  #askedUntil = 0;
  #asking = Promise.resolve();

  constructor() {
    super();
    this.#channel.onmessage = ({ data }) => this.#heard(data);
  }

  /** null，或 { userId, name }。 */
  get user() {
    return this.#kept && { userId: this.#kept.userId, name: this.#kept.name };
  }

  /** 恢复这个标签页的登录（刷新页面之后）。 */
  restore() {
    this.#kept = JSON.parse(sessionStorage.getItem(STORAGE_KEY) ?? "null");
    if (!this.#kept?.refreshToken) return;
    this.#askedUntil = Date.now() + ASK_MS;
    this.#asking = new Promise((resolve) => setTimeout(resolve, ASK_MS));
    this.#channel.postMessage({ ask: this.#kept.tab });
  }

  /** 别的标签页登录着：用它的访问令牌；刷新令牌留在那里，到期了再向它要。 */
  async borrow() {
    const lent = await this.#askOthers(null);
    if (lent) this.#keep(lent);
    return lent !== null;
  }

  async signIn(username, password) {
    const body = { username, password };
    this.#accept(await callRest("POST", "auth/login", { body }), username);
  }

  async register(username, password) {
    await callRest("POST", "auth/register", { body: { username, password } });
    await this.signIn(username, password);
  }

  /** 粘贴的令牌：它是谁由服务器说（哪个声明是用户 id，各家不同）；API 密钥不是谁，`userId` 为 null。 */
  async paste(text) {
    const token = text.trim().replace(/^Bearer\s+/i, "");
    this.adopt(token, null);
    if (token.startsWith(KEY_PREFIX)) return;
    this.adopt(token, (await this.call("POST", "auth/ws-ticket")).user_id);
  }

  /** 别处签发的访问令牌（演示的链接）；没有刷新令牌，到期就要登录。 */
  adopt(token, userId) {
    this.#keep({ userId, name: claimsOf(token).name ?? "", accessToken: token, refreshToken: null });
  }

  async signOut() {
    try {
      await this.call("POST", "auth/logout");
    } catch {
      // 令牌已失效或连不上：本地照样忘掉
    }
    this.forget();
  }

  forget() {
    this.#keep(null);
  }

  /** 访问令牌；`fresh` 时一定换新的。 */
  async accessToken(fresh = false) {
    const due = this.#kept?.renewAt && Date.now() > this.#kept.renewAt;
    if (this.#kept && !fresh && !due) return this.#kept.accessToken;
    this.#refreshing ??= this.#refresh().finally(() => (this.#refreshing = null));
    return this.#refreshing;
  }

  /** 以此人的名义调用 REST；令牌过期就换一次再试。登录已失效则发出 `ended`。 */
  async call(method, path, options = {}) {
    const token = await this.accessToken();
    try {
      return await callRest(method, path, { ...options, token });
    } catch (error) {
      if (error.status !== 401) throw error;
      if (error.code !== "token_expired") throw this.#end();
    }
    return callRest(method, path, { ...options, token: await this.accessToken(true) });
  }

  async #refresh() {
    await this.#asking;
    const before = this.#kept;
    if (before && !before.refreshToken) {
      const lent = await this.#askOthers(before);
      if (lent && this.#kept === before) {
        this.#keep(lent);
        return lent.accessToken;
      }
    }
    if (!before?.refreshToken) throw this.#end();
    const answer = await this.#exchange(before.refreshToken);
    if (this.#kept !== before) {
      throw new RestError({ code: "session_changed", message: "", temporary: true });
    }
    this.#accept(answer, before.name);
    return this.#kept.accessToken;
  }

  async #exchange(refreshToken) {
    try {
      return await callRest("POST", "auth/refresh", { body: { refresh_token: refreshToken } });
    } catch (error) {
      throw error.status === 401 ? this.#end() : error;
    }
  }

  #accept(answer, name) {
    const { user_id: userId, access_token: accessToken, refresh_token: refreshToken } = answer;
    const renewAt = Date.now() + answer.expires_in_s * 1000 * RENEW_AFTER;
    this.#keep({ userId, name, accessToken, refreshToken, renewAt, tab: newTabName() });
  }

  #keep(kept) {
    this.#kept = kept;
    if (kept === null) sessionStorage.removeItem(STORAGE_KEY);
    else sessionStorage.setItem(STORAGE_KEY, JSON.stringify(kept));
  }

  #end() {
    this.dispatchEvent(new Event("ended"));
    return new RestError({ code: "session_expired", message: "sign in again", temporary: false }, 401);
  }

  /** 向别的标签页要一枚新的：同一个人的；谁也没有回答则 null。 */
  #askOthers(like) {
    const wanted = newTabName();
    return new Promise((resolve) => {
      const done = (lent) => {
        this.#channel.removeEventListener("message", answered);
        clearTimeout(timer);
        resolve(lent);
      };
      const answered = ({ data: { lent, to } }) => {
        const fits = to === wanted && (like === null || lent.userId === like.userId);
        if (fits) done({ ...lent, refreshToken: null });
      };
      const timer = setTimeout(() => done(null), like === null ? ASK_MS : LEND_MS);
      this.#channel.addEventListener("message", answered);
      this.#channel.postMessage({ wanted, old: like?.accessToken ?? null });
    });
  }

  async #lend(to, old) {
    if (!this.#kept?.refreshToken) return;
    const stale = old === this.#kept.accessToken;
    const accessToken = await this.accessToken(stale).catch(() => null);
    if (accessToken === null || !this.#kept) return;
    const { userId, name } = this.#kept;
    this.#channel.postMessage({ to, lent: { userId, name, accessToken } });
  }

  #heard({ ask, taken, wanted, old }) {
    if (wanted) void this.#lend(wanted, old);
    const tab = this.#kept?.tab;
    if (!tab || !this.#kept.refreshToken) return;
    const asking = Date.now() < this.#askedUntil;
    if (ask === tab && !asking) this.#channel.postMessage({ taken: tab });
    if (taken === tab && asking) this.#keep({ ...this.#kept, refreshToken: null });
  }
}

const newTabName = () => [...crypto.getRandomValues(new Uint32Array(4))].join("-");

/** 令牌里写的，只用来显示与认路：不验证签名；不是 JWT 则空。 */
function claimsOf(token) {
  try {
    const payload = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(payload), (char) => char.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch {
    return {};
  }
}
