/** 收件箱页面：把登录、SDK 的收件箱、列表与右栏接在一起。 */

import { forgetKept, meet, recall } from "./address-book.js";
import { announce } from "./announcer.js";
import { DesktopNotices, showUnread } from "./attention.js";
import { Composer } from "./composer.js";
import { ConnectionState } from "./connection-state.js";
import { Delivery } from "./delivery.js";
import { byId } from "./element.js";
import { Inbox, itemOf } from "./meeting-push-inbox.js";
import { PushClient } from "./meeting-push.js";
import { MessageList } from "./message-list.js";
import { Panes } from "./panes.js";
import { showMessage } from "./reader.js";
import { readId, root } from "./rest.js";
import { SentBox } from "./sent-box.js";
import { Session } from "./session.js";
import { bindShortcuts } from "./shortcuts.js";
import { SignIn } from "./sign-in.js";
import { Views } from "./views.js";
import { explain, fillWords, say } from "./words.js";

class InboxPage {
  #session = new Session();
  #list = new MessageList(byId("messages"), document.querySelector(".list"), {
    onOpen: (id) => this.#open(id),
    onNear: () => void this.#loadMore(),
  });
  #panes = new Panes((closed) => this.#paneClosed(closed));
  #signIn = new SignIn(this.#session, () => this.#enter());
  #views = new Views((name, wanted) => this.#look(name, wanted));
  #delivery = new Delivery(this.#session, () => this.#client.rest);
  #composer = new Composer(() => this.#client.rest, (accepted, draft) => this.#sent(accepted, draft));
  #notices = new DesktopNotices((id) => this.#openMessage(id));
  #connection = new ConnectionState({
    retry: () => this.#client.retryNow(),
    reconnect: () => this.#client.start(),
    signIn: () => this.#leave(""),
  });
  #client = null;
  #inbox = null;
  #sentBox = null;
  /** 右栏里的那一条；重取之后它可能已不在列表里。 */
  #opened = null;
  #loading = false;

  async start() {
    this.#session.addEventListener("ended", () => this.#client && this.#leave(say("signin.ended")));
    this.#bindButtons();
    window.addEventListener("hashchange", () => this.#takeFragment() && this.#enter());
    this.#session.restore();
    this.#takeFragment();
    if (this.#session.user || (await this.#session.borrow())) this.#enter();
    else this.#leave("");
    document.documentElement.classList.remove("starting");
  }

  #bindButtons() {
    const on = (id, act) => byId(id).addEventListener("click", act);
    on("sign-out", () => this.#signOut());
    on("compose", () => this.#compose());
    on("compose-another", () => this.#compose());
    on("read-all", () => this.#do(this.#inbox.readAll()));
    on("load-more", () => this.#loadMore());
    on("reload", () => this.#reload());
    on("reply", () => this.#reply());
    on("archive", () => this.#archive());
    on("mark-unread", () => this.#markUnread());
    on("withdraw", () => this.#withdraw());
    on("notice-dismiss", () => (byId("notice").hidden = true));
    bindShortcuts({
      j: () => this.#step(1),
      k: () => this.#step(-1),
      e: () => this.#archive(),
      u: () => this.#markUnread(),
      r: () => this.#panes.current === "message" && !byId("reply").hidden && this.#reply(),
      c: () => this.#compose(),
      "/": () => byId("search").focus(),
      "?": () => byId("shortcuts").showModal(),
    });
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
    this.#inbox = new Inbox(this.#client, (arrived) => this.#changed(arrived));
    this.#sentBox = new SentBox(this.#client.rest);
    recall(userId);
    meet({ id: userId, name });
    this.#inbox.start();
    this.#client.start();
  }

  #newClient(userId) {
    const client = new PushClient({
      url: root,
      userId,
      deviceInfo: `Web inbox (${navigator.platform})`,
      token: ({ fresh }) => this.#session.accessToken(fresh),
      worker: false, // 这里的 CSP 不许
    });
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
    forgetKept();
    byId("app").hidden = true;
    byId("signin").hidden = false;
    document.title = say("inbox");
    this.#signIn.show(reason);
  }

  #forgetPerson() {
    this.#inbox?.stop();
    this.#client?.stop();
    this.#client = this.#inbox = this.#sentBox = this.#opened = null;
    this.#delivery.stop();
    this.#composer.clear();
    this.#views.reset();
    this.#list.show([]);
    this.#panes.reset();
    showUnread(0);
    byId("notice").hidden = true;
  }

  // ── 推送 ──────────────────────────────────────────────────────────────────

  /** 收件箱变了；`arrived` 是刚到的，返回之后才确认。 */
  #changed(arrived) {
    if (!this.#inbox) return;
    for (const { sender } of this.#inbox.items) meet(sender);
    const { counts } = this.#inbox;
    showUnread(counts.unread);
    this.#views.showCounts(counts);
    if (this.#views.name !== "sent") this.#showList(arrived);
    if (arrived.length > 0) announce(arrived);
    this.#notices.tell(arrived);
  }

  #frame(frame) {
    switch (frame.type) {
      case "withdrawn":
        this.#tombstone(frame.message_id);
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

  #tombstone(id) {
    if (this.#opened?.message_id !== id) return;
    this.#opened = { ...this.#opened, title: "", content: "", data: null, withdrawn: true };
    showMessage(this.#opened);
  }

  // ── 列表 ──────────────────────────────────────────────────────────────────

  get #shown() {
    return this.#views.name === "sent" ? this.#sentBox : this.#inbox;
  }

  #look(name, wanted) {
    document.querySelector(".list").scrollTop = 0;
    this.#list.select(null);
    if (name !== "sent") return this.#do(this.#inbox.show(wanted));
    this.#showList();
    return this.#reload();
  }

  async #reload() {
    const box = this.#shown;
    await this.#do(box.reload());
    if (box === this.#shown) this.#showList();
  }

  async #loadMore() {
    const box = this.#shown;
    if (this.#loading || !box || box.cursor === null) return;
    this.#loading = byId("load-more").disabled = true;
    await this.#do(box.more());
    this.#loading = byId("load-more").disabled = false;
    if (box === this.#shown) this.#showList();
  }

  #showList(fresh = []) {
    const { items, state, cursor } = this.#shown;
    const [empty, narrowed] = [items.length === 0, this.#views.narrowed];
    byId("list-loading").hidden = !(state === "loading" && empty);
    byId("list-failed").hidden = state !== "failed";
    byId("list-empty").hidden = !(state === "ready" && empty && cursor === null);
    byId("list-empty-title").textContent = say(narrowed ? "list.none" : "list.empty");
    byId("list-empty-hint").textContent = say(narrowed ? "list.none.hint" : "list.empty.hint");
    byId("load-more").hidden = cursor === null;
    this.#list.show(items, fresh);
  }

  // ── 阅读 ──────────────────────────────────────────────────────────────────

  #open(id) {
    if (this.#views.name === "sent") this.#openSent(id);
    else void this.#openMessage(id);
  }

  async #openMessage(id) {
    const known = this.#inbox.get(id);
    const item = known ?? (await this.#do(this.#client.rest.message(id).then(itemOf)));
    if (!item) return;
    this.#delivery.stop();
    this.#opened = item;
    this.#list.select(id);
    showMessage(item);
    this.#panes.open("message", byId("reader-title"));
    await this.#do(this.#inbox.read(id));
  }

  #openSent(id) {
    const item = this.#sentBox.get(id);
    this.#list.select(id);
    this.#delivery.watch(item);
    this.#panes.open("delivery", byId("delivery-title"));
  }

  #step(by) {
    const id = this.#list.beside(by);
    if (id !== null) this.#open(id);
  }

  async #archive() {
    if (this.#panes.current !== "message") return;
    const { message_id: id, archived } = this.#opened;
    const next = this.#list.beside(1);
    await this.#do(this.#inbox.archive(id, !archived));
    this.#panes.close();
    if (next !== null) this.#opened = { message_id: next };
  }

  async #markUnread() {
    if (this.#panes.current !== "message") return;
    await this.#do(this.#inbox.read(this.#opened.message_id, false));
    this.#panes.close();
  }

  async #withdraw() {
    const id = this.#delivery.messageId;
    if (!confirm(say("withdraw.sure"))) return;
    await this.#do(
      this.#client.rest.withdraw(id).then(() => {
        this.#sentBox.withdrawn(id);
        this.#delivery.withdrawn();
        if (this.#views.name === "sent") this.#showList();
      }),
    );
  }

  /** 没办成的说出来；返回办成的结果。 */
  async #do(work) {
    try {
      return await work;
    } catch (error) {
      this.#showNotice(explain(error));
      return null;
    }
  }

  #paneClosed(closed) {
    if (closed === "delivery") this.#delivery.stop();
    const id = this.#opened?.message_id;
    this.#list.select(null);
    if (closed === "message") this.#list.focus(id);
    else byId("compose").focus();
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
    this.#delivery.watch({ ...draft, ...accepted });
    if (this.#views.name === "sent") void this.#reload();
    this.#panes.open("delivery", byId("delivery-title"));
  }

  #showNotice(text) {
    byId("notice-text").textContent = text;
    byId("notice").hidden = false;
  }
}

fillWords(document);
new InboxPage().start();
