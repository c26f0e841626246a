/**
 * `<meeting-push-inbox>`：铃铛与消息的列表，放进自己的页面就行，不要框架。
 *
 *     const inbox = document.querySelector("meeting-push-inbox");
 *     inbox.client = client; // 应用自己的 PushClient，由应用开始与停止
 *     inbox.addEventListener("open-message", ({ detail }) => show(detail));
 */

import type { PushClient } from "../client.js";
import { Inbox, isRecorded, type Item, itemOf, type View } from "./inbox.js";
import { STYLE } from "./style.js";
import { languageOf, say, when, type Word } from "./words.js";

export { Inbox, isRecorded, type Item, itemOf, type View };

const URGENT_PRIORITY = 5;
const PREVIEW_CHARS = 160;
const MANY = 99;
const BOX = "M4 8v10.500a1.500 1.500 0 0 0 1.500 1.500h13a1.500 1.500 0 0 0 1.500-1.500V8M3 4h18v4H3zM9.500 12h5";
const BELL = "M18 16H6c1-1 1.5-2 1.5-4V9.500a4.500 4.500 0 0 1 9 0V12c0 2 .5 3 1.500 4zM10 19a2 2 0 0 0 4 0";

/** 在服务器上渲染时没有 HTMLElement：导入无事，造不出来。 */
const Base = globalThis.HTMLElement ?? (class {} as typeof HTMLElement);

declare global {
  interface HTMLElementTagNameMap {
    "meeting-push-inbox": MeetingPushInbox;
  }
}

export class MeetingPushInbox extends Base {
  static observedAttributes = ["lang"];
  #root = this.attachShadow({ mode: "open", delegatesFocus: true });
  #client: PushClient | null = null;
  #inbox: Inbox | null = null;
  #badge = make("span", { className: "badge", part: "badge", hidden: true, ariaHidden: "true" });
  #bell = make("button", { className: "bell", part: "bell", type: "button", ariaExpanded: "false" });
  #heading = make("h2", { id: "heading" });
  #readAll = make("button", { className: "link", type: "button" });
  #note = make("p", { className: "note" });
  #retry = make("button", { className: "link", type: "button" });
  #list = make("ul", { part: "list" });
  #more = make("button", { className: "link more", type: "button" });
  #live = make("div", { className: "quiet", role: "status", ariaLive: "polite" });
  #panel = make("section", { className: "panel", part: "panel", role: "dialog", hidden: true });
  #rows = new Map<string, { row: HTMLElement; shown: string }>();

  constructor() {
    super();
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
    this.#root.adoptedStyleSheets = [sheet];
    this.#bell.append(icon(BELL), this.#badge);
    this.#bell.setAttribute("aria-haspopup", "dialog");
    this.#panel.setAttribute("aria-labelledby", "heading");
    const header = make("header", {});
    header.append(this.#heading, this.#readAll);
    const scroll = make("div", { className: "scroll" });
    scroll.append(this.#note, this.#retry, this.#list, this.#more);
    this.#panel.append(header, scroll);
    this.#root.append(this.#bell, this.#live, this.#panel);
    this.#bell.onclick = () => this.#toggle(Boolean(this.#panel.hidden));
    this.#readAll.onclick = () => this.#try(this.#inbox?.readAll());
    this.#more.onclick = () => this.#try(this.#inbox?.more());
    this.#retry.onclick = () => void this.#inbox?.reload();
    this.#root.addEventListener("keydown", (event) => this.#key(event as KeyboardEvent));
  }

  /** 应用自己的客户端；换一个（换了人）就从头取。 */
  get client(): PushClient | null {
    return this.#client;
  }

  set client(client: PushClient | null) {
    this.#client = client;
    if (this.isConnected) this.#attach();
  }

  /** 未读数；变了有 `unread-change` 事件。 */
  get unread(): number {
    return this.#inbox?.unread ?? 0;
  }

  connectedCallback(): void {
    document.addEventListener("pointerdown", this.#outside);
    this.#attach();
  }

  disconnectedCallback(): void {
    document.removeEventListener("pointerdown", this.#outside);
    this.#detach();
  }

  attributeChangedCallback(): void {
    this.#rows.clear();
    this.#list.replaceChildren();
    this.#show([]);
  }

  #attach(): void {
    this.#detach();
    if (this.#client) {
      this.#inbox = new Inbox(this.#client, (arrived) => this.#show(arrived));
      this.#inbox.start();
    }
    this.#show([]);
  }

  #detach(): void {
    this.#inbox?.stop();
    this.#inbox = null;
    this.#rows.clear();
    this.#list.replaceChildren();
  }

  // ── 显示 ────────────────────────────────────────────────────────────────

  #say(word: Word, values?: Record<string, unknown>): string {
    return say(languageOf(this), word, values);
  }

  #show(arrived: Item[]): void {
    const { items = [], state = "loading", cursor = null } = this.#inbox ?? {};
    this.#showBadge();
    this.#heading.textContent = this.#say("title");
    this.#readAll.textContent = this.#say("readAll");
    this.#readAll.hidden = this.unread === 0;
    this.#more.textContent = this.#say("more");
    this.#more.hidden = cursor === null;
    this.#retry.textContent = this.#say("retry");
    this.#retry.hidden = state !== "failed";
    const note = this.#noteOf(state, items.length);
    this.#note.textContent = note;
    this.#note.hidden = note === "";
    this.#showRows(items);
    if (arrived.length === 1) this.#live.textContent = this.#say("arrived", arrived[0]);
    else if (arrived.length) this.#live.textContent = this.#say("arrivedMany", { count: arrived.length });
  }

  #showBadge(): void {
    const text = this.unread > MANY ? `${MANY}+` : String(this.unread);
    const changed = this.#badge.textContent !== text;
    this.#badge.textContent = text;
    this.#badge.hidden = this.unread === 0;
    this.#bell.ariaLabel = this.unread ? this.#say("unread", { count: this.unread }) : this.#say("bell");
    if (changed) this.dispatchEvent(new CustomEvent("unread-change", { detail: this.unread }));
  }

  #noteOf(state: string, count: number): string {
    const connection = this.#client?.state;
    if (state === "failed") return this.#say("failed");
    if (connection?.name === "disconnected" && connection.reason !== "not_started") {
      return this.#say(connection.final ? "stopped" : "offline");
    }
    return state === "ready" && count === 0 ? this.#say("empty") : "";
  }

  /** 没变的行不动：焦点与滚动都在原处。 */
  #showRows(items: Item[]): void {
    const there = new Set(items.map(({ message_id: id }) => id));
    for (const [id, { row }] of this.#rows) {
      if (there.has(id)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    items.forEach((item, index) => {
      const shown = JSON.stringify(item);
      let known = this.#rows.get(item.message_id);
      if (known?.shown !== shown) {
        const row = this.#row(item);
        const focused = known?.row.contains(this.#root.activeElement);
        known?.row.replaceWith(row);
        if (focused) row.querySelector("button")!.focus();
        this.#rows.set(item.message_id, (known = { row, shown }));
      }
      const there = this.#list.children[index];
      if (there !== known.row) this.#list.insertBefore(known.row, there ?? null);
    });
  }

  #row(item: Item): HTMLElement {
    const row = make("li", {});
    const button = make("button", { className: `item${item.read ? "" : " unread"}`, part: "item", type: "button" });
    button.dataset.id = item.message_id;
    const meta = make("span", { className: "meta" });
    const sender = item.sender?.name || (item.sender?.id ? String(item.sender.id) : this.#say("system"));
    meta.append(...this.#marks(item), `${sender} · ${when(languageOf(this), item.timestamp)}`);
    if (!item.read) button.append(make("span", { className: "quiet", textContent: this.#say("isUnread") }));
    const text = item.content.slice(0, PREVIEW_CHARS);
    const title = item.withdrawn ? this.#say("withdrawn") : item.title;
    button.append(make("span", { className: "name", textContent: title }));
    button.append(make("span", { className: "text", textContent: text }), meta);
    button.onclick = () => this.#open(item);
    row.append(button, this.#archiveButton(item, title));
    return row;
  }

  /** 急的，平常的消息以外的，发给所有人的。 */
  #marks({ priority, message_type: kind, broadcast }: Item): HTMLElement[] {
    const words: Word[] = priority >= URGENT_PRIORITY ? ["urgent"] : [];
    if (kind === "notification" || kind === "system") words.push(kind);
    if (broadcast) words.push("broadcast");
    return words.map((word) =>
      make("span", { className: `mark ${word}`, part: "mark", textContent: this.#say(word) }),
    );
  }

  #archiveButton(item: Item, title: string): HTMLElement {
    const ariaLabel = this.#say("archiveOne", { title });
    const given = { className: "archive", part: "archive", type: "button", title: this.#say("archive"), ariaLabel };
    const button = make("button", given);
    button.append(icon(BOX));
    button.onclick = () => this.#try(this.#archive(item.message_id, title));
    return button;
  }

  // ── 做 ──────────────────────────────────────────────────────────────────

  /** 应用可以拦下（`preventDefault`）：不标为已读。 */
  #open(item: Item): void {
    const event = new CustomEvent("open-message", { detail: item, cancelable: true, bubbles: true, composed: true });
    if (this.dispatchEvent(event)) this.#try(this.#inbox?.read(item.message_id));
  }

  /** 键盘在原处接着走：下一条，没有就上一条。 */
  async #archive(id: string, title: string): Promise<void> {
    const at = this.#focused();
    await this.#inbox?.archive(id);
    this.#live.textContent = this.#say("archived", { title });
    const rows = this.#items();
    if (at >= 0) (rows[Math.min(at, rows.length - 1)] ?? this.#bell).focus();
  }

  #items(): HTMLElement[] {
    return [...this.#list.querySelectorAll<HTMLElement>(".item")];
  }

  /** 焦点在第几行；不在列表里是 -1。 */
  #focused(): number {
    return [...this.#list.children].findIndex((row) => row.contains(this.#root.activeElement));
  }

  #try(work: Promise<void> | undefined): void {
    work?.catch((error: unknown) => this.dispatchEvent(new CustomEvent("failed", { detail: error })));
  }

  #toggle(open: boolean): void {
    this.#panel.hidden = !open;
    this.#bell.ariaExpanded = String(open);
    if (open) (this.#list.querySelector("button") ?? this.#bell).focus();
    else this.#bell.focus();
  }

  #outside = (event: Event): void => {
    if (this.#panel.hidden || event.composedPath().includes(this)) return;
    this.#panel.hidden = true;
    this.#bell.ariaExpanded = "false";
  };

  #key(event: KeyboardEvent): void {
    if (event.key === "Escape" && !this.#panel.hidden) {
      event.stopPropagation();
      return this.#toggle(false);
    }
    const [items, at] = [this.#items(), this.#focused()];
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[event.key];
    if (to === undefined && event.key !== "e") return;
    event.preventDefault();
    if (to !== undefined) items[to]?.focus();
    else this.#list.children[at]!.querySelector<HTMLElement>(".archive")!.click();
  }
}

type Given = Record<string, string | boolean>;

function make<Name extends keyof HTMLElementTagNameMap>(name: Name, given: Given): HTMLElementTagNameMap[Name] {
  const { part, ...properties } = given;
  const node = Object.assign(document.createElement(name), properties);
  if (part) node.part.add(String(part));
  return node;
}

function icon(lines: string): SVGElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", lines);
  svg.append(path);
  return svg;
}

if (globalThis.customElements && !customElements.get("meeting-push-inbox")) {
  customElements.define("meeting-push-inbox", MeetingPushInbox);
}
