/** 收件箱页面：把登录、推送、列表与右栏接在一起。 */

import { announce } from "./announcer.js";
import { Composer } from "./composer.js";
import { ConnectionState } from "./connection-state.js";
import { Delivery } from "./delivery.js";
import { byId } from "./element.js";
import { isRecorded, MessageList } from "./message-list.js";
import { PushClient } from "./meeting-push.js";
import { Panes } from "./panes.js";
import { showMessage } from "./reader.js";
import { readId, root } from "./rest.js";
import { Session } from "./session.js";
import { SignIn } from "./sign-in.js";
import { UnreadCount } from "./unread-count.js";
import { explain, fillWords, say } from "./words.js";

const PAGE_SIZE = 30;

class InboxPage {
  #session = new Session();
  #unread = new UnreadCount(() => this.#askUnread());
  #list = new MessageList(byId("messages"), (id) => this.#openMessage(id));
  #panes = new Panes((closed) => this.#paneClosed(closed));
  #signIn = new SignIn(this.#session, () => this.#enter());
  #delivery = new Delivery(this.#session);
  #composer = new Composer(this.#session, (accepted, draft) => this.#sent(accepted, draft));
  #connection = new ConnectionState({
    retry: () => this.#client.retryNow(),
    reconnect: () => this.#client.start(),
    signIn: () => this.#leave(""),
  });
  #client = null;
  #cursor = null;
  /** 右栏里的那一条；重取之后它可能已不在列表里。 */
  #opened = null;
  /** 每次重取一个号：迟到的旧结果作废。 */
  #reload = 0;

  start() {
    this.#session.addEventListener("ended", () => this.#client && this.#leave(say("signin.ended")));
    this.#bindButtons();
    window.addEventListener("hashchange", () => this.#takeFragment() && this.#enter());
    this.#session.restore();
    this.#takeFragment();
    if (this.#session.user) this.#enter();
    else this.#leave("");
    document.documentElement.classList.remove("starting");
  }

  #bindButtons() {
    const on = (id, act) => byId(id).addEventListener("click", act);
    on("sign-out", () => this.#signOut());
    on("compose", () => this.#compose());
    on("compose-another", () => this.#compose());
    on("read-all", () => this.#readAll());
    on("load-more", () => this.#loadMore());
    on("reload", () => this.#reloadInbox());
    on("reply", () => this.#reply());
    on("notice-dismiss", () => (byId("notice").hidden = true));
  }

  // ── 登录 ──────────────────────────────────────────────────────────────────

  /**
   * `#token=…&user=…`：片段从不离开浏览器；读完立即从地址栏抹掉。
   * 谁都能给人一个链接：已登录的不会不声不响地变成别人。
   */
  #takeFragment() {
    const given = new URLSearchParams(location.hash.slice(1));
    const [token, userId] = [given.get("token"), readId(given.get("user") ?? "")];
    if (!token || !userId) return false;
    history.replaceState(null, "", location.pathname + location.search);
    const user = this.#session.user;
    if (user && !confirm(say("signin.replace", { name: user.name || user.userId }))) return false;
    this.#session.adopt(token, userId);
    return true;
  }

  #enter() {
    this.#forgetPerson();
    const { userId, name } = this.#session.user;
    byId("you-name").textContent = name || say("sender.unknown", { id: userId });
    byId("you-id").textContent = say("you.id", { id: userId });
    byId("signin").hidden = true;
    byId("app").hidden = false;
    this.#client = this.#newClient(userId);
    this.#client.start();
    this.#reloadInbox();
  }

  #newClient(userId) {
    const client = new PushClient({
      url: root,
      userId,
      deviceInfo: `Web inbox (${navigator.platform})`,
      token: ({ fresh }) => this.#session.accessToken(fresh),
      worker: false, // 这里的 CSP 不许
    });
    client.on("messages", (messages) => this.#arrived(messages));
    client.on("state", (state) => client === this.#client && this.#connection.show(state));
    client.on("frame", (frame) => this.#frame(frame));
    return client;
  }

  async #signOut() {
    this.#client.stop();
    this.#client = null;
    await this.#session.signOut();
    this.#leave("");
  }

  #leave(reason) {
    this.#session.forget();
    this.#forgetPerson();
    byId("app").hidden = true;
    byId("signin").hidden = false;
    document.title = say("inbox");
    this.#signIn.show(reason);
  }

  #forgetPerson() {
    this.#client?.stop();
    this.#client = null;
    this.#reload += 1;
    this.#opened = null;
    this.#delivery.stop();
    this.#composer.clear();
    this.#list.clear();
    this.#panes.reset();
    this.#unread.show(0);
    byId("notice").hidden = true;
  }

  // ── 推送 ──────────────────────────────────────────────────────────────────

  /** 同步应用：返回之后才确认。 */
  #arrived(messages) {
    this.#list.add(messages);
    this.#showListState();
    this.#unread.refreshSoon();
    announce(messages);
  }

  #frame(frame) {
    switch (frame.type) {
      case "welcome": // 离线期间的已读、别的设备确认过的消息，都只有记录知道
      case "gap":
      case "resync":
      case "withdrawn":
        this.#reloadInbox();
        break;
      case "read_sync":
        this.#list.markRead(frame.message_ids, Date.now());
        this.#unread.show(frame.unread_count);
        this.#unread.refreshSoon();
        break;
      case "receipt":
        this.#delivery.receipt(frame);
        break;
      case "notice":
        if (frame.code === "draining") this.#showNotice(say("notice.draining"));
        break;
    }
    if (frame.type === "welcome") byId("notice").hidden = true;
  }

  // ── 列表 ──────────────────────────────────────────────────────────────────

  async #reloadInbox() {
    const [mine, ticket] = [++this.#reload, this.#unread.begin()];
    this.#list.beginReload();
    this.#showListState("loading");
    try {
      const page = await this.#session.call("GET", `messages?limit=${PAGE_SIZE}`);
      if (mine !== this.#reload) return;
      this.#list.endReload(page.items);
      this.#cursor = page.next_cursor;
      this.#unread.show(page.unread_count, ticket);
      this.#showListState();
    } catch {
      if (mine !== this.#reload) return;
      this.#list.abandonReload();
      this.#showListState("failed");
    }
  }

  async #loadMore() {
    const [mine, ticket] = [this.#reload, this.#unread.begin()];
    byId("load-more").disabled = true;
    try {
      const cursor = encodeURIComponent(this.#cursor);
      const page = await this.#session.call("GET", `messages?limit=${PAGE_SIZE}&cursor=${cursor}`);
      if (mine !== this.#reload) return;
      this.#list.add(page.items);
      this.#cursor = page.next_cursor;
      this.#unread.show(page.unread_count, ticket);
    } catch (error) {
      this.#showNotice(explain(error));
    } finally {
      byId("load-more").disabled = false;
      this.#showListState();
    }
  }

  async #askUnread() {
    return (await this.#session.call("GET", "messages?limit=1")).unread_count;
  }

  #showListState(state = "ready") {
    const empty = this.#list.size === 0;
    byId("list-loading").hidden = !(state === "loading" && empty);
    byId("list-failed").hidden = state !== "failed";
    byId("list-empty").hidden = !(state === "ready" && empty);
    byId("load-more").hidden = this.#cursor === null || empty;
  }

  // ── 阅读 ──────────────────────────────────────────────────────────────────

  #openMessage(id) {
    const message = this.#list.get(id);
    this.#opened = message;
    this.#list.select(id);
    showMessage(message);
    this.#panes.open("message", byId("reader-title"));
    if (message.read_at) return;
    if (isRecorded(id)) this.#read({ message_ids: [id] }, [id]);
    else this.#list.markRead([id], Date.now());
  }

  #readAll() {
    const ids = this.#list.ids;
    const newest = ids.filter(isRecorded).sort().at(-1);
    if (newest) this.#read({ upto_message_id: newest }, ids);
  }

  async #read(body, ids) {
    const ticket = this.#unread.begin();
    try {
      const { unread_count: count } = await this.#session.call("POST", "messages/read", { body });
      this.#list.markRead(ids, Date.now());
      this.#unread.show(count, ticket);
      this.#unread.refreshSoon();
    } catch (error) {
      this.#showNotice(explain(error));
    }
  }

  #paneClosed(closed) {
    if (closed === "delivery") this.#delivery.stop();
    if (closed === "message") this.#list.focus(this.#opened.message_id);
    else byId("compose").focus();
    this.#list.select(null);
  }

  // ── 写 ────────────────────────────────────────────────────────────────────

  #compose(prefill) {
    this.#delivery.stop();
    this.#list.select(null);
    this.#composer.fill(prefill);
    const field = prefill === undefined ? "compose-recipients" : "compose-content";
    this.#panes.open("compose", byId(field));
  }

  #reply() {
    const { sender, title } = this.#opened;
    this.#compose({ recipients: String(sender.id), title: say("reply.title", { title }) });
  }

  #sent(accepted, draft) {
    this.#delivery.watch(accepted, draft);
    this.#panes.open("delivery", byId("delivery-title"));
  }

  #showNotice(text) {
    byId("notice-text").textContent = text;
    byId("notice").hidden = false;
  }
}

fillWords(document);
new InboxPage().start();
