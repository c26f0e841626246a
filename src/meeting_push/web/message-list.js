import { element } from "./element.js";
import { say, shortTime } from "./words.js";

export const URGENT_PRIORITY = 5;
export const isUrgent = (message) => message.priority >= URGENT_PRIORITY;
/** 头像的底色有几种；颜色在 CSS 里。 */
const TONES = 6;
const PREVIEW_CHARS = 160;
/** Date 能表示的最晚时刻。 */
const LATEST_MS = 8.64e15;

/** 没有 id（null，从前的 0）的是系统。 */
export function senderName({ id, name }) {
  return name || (id ? say("sender.unknown", { id }) : say("sender.system"));
}

export const titleOf = ({ withdrawn_at: at, title }) => (at ? say("withdrawn") : title);

export function avatar(sender) {
  const initial = [...senderName(sender).trim()][0] ?? "?";
  const data = { tone: (sender.id ?? 0) % TONES };
  return element("span", { className: "avatar", textContent: initial, data, aria: { hidden: true } });
}

export function urgentMark() {
  return element("span", { className: "urgent-mark", textContent: say("urgent") });
}

/** 在记录（SQL）里的消息 id 是 ULID；别的进程发布的瞬时消息不一定是，也没有已读可记。 */
export const isRecorded = (id) => /^[0-9A-Z]{26}$/.test(id);

/** 瞬时消息由任何进程发布，只保证有 id、标题与正文：补齐其余，时刻不合理的当作现在。 */
function complete(message) {
  const known = message.timestamp !== null && message.timestamp <= LATEST_MS;
  const timestamp = known ? message.timestamp : Date.now();
  const sender = message.sender ?? { id: 0, name: "" };
  return { priority: 0, message_type: "message", ...message, sender, timestamp };
}

/** 收件箱列表：按 id 去重，新的在前（同一时刻的按 id，ULID 的字典序即时间序）。 */
export class MessageList {
  #list;
  #onOpen;
  #messages = new Map();
  #rows = new Map();
  #selected = null;
  /** 重取期间到来的：重取的结果里可能还没有它们。 */
  #arrivedMeanwhile = null;

  constructor(list, onOpen) {
    this.#list = list;
    this.#onOpen = onOpen;
    list.addEventListener("keydown", (event) => this.#moveFocus(event));
  }

  get size() {
    return this.#messages.size;
  }

  /** 新的在前。 */
  get ids() {
    return [...this.#messages.values()].sort(newestFirst).map((message) => message.message_id);
  }

  get(id) {
    return this.#messages.get(id);
  }

  /** 加进一批；没见过的行亮一下。 */
  add(messages) {
    const fresh = messages.map(({ message_id: id }) => id).filter((id) => !this.#messages.has(id));
    for (const message of messages) this.#keep(message, this.#messages);
    this.#arrivedMeanwhile?.push(...messages);
    this.#render(messages.map(({ message_id: id }) => id));
    for (const id of fresh) this.#rows.get(id).classList.add("arrived");
  }

  /** 推来的帧不说已读与否，迟到的回答可能还说未读；已读不会变回未读。 */
  #keep(message, into) {
    const old = this.#messages.get(message.message_id);
    const read_at = message.read_at ?? old?.read_at;
    into.set(message.message_id, { ...old, ...complete(message), read_at });
  }

  beginReload() {
    this.#arrivedMeanwhile = [];
  }

  endReload(items) {
    const reloaded = new Map();
    for (const message of [...items, ...(this.#arrivedMeanwhile ?? [])]) this.#keep(message, reloaded);
    this.#arrivedMeanwhile = null;
    this.#messages = reloaded;
    this.#render([...reloaded.keys()]);
  }

  abandonReload() {
    this.#arrivedMeanwhile = null;
  }

  clear() {
    this.#messages.clear();
    this.#render([]);
  }

  markRead(ids, readAt) {
    const known = ids.filter((id) => this.#messages.has(id));
    for (const id of known) this.#messages.get(id).read_at ??= readAt;
    this.#render(known);
  }

  select(id) {
    const changed = [this.#selected, id].filter((each) => this.#messages.has(each));
    this.#selected = id;
    this.#render(changed);
  }

  focus(id) {
    (this.#rows.get(id) ?? this.#list.firstElementChild)?.firstElementChild.focus();
  }

  /** 只重画 `changed` 里的行；其余只保证次序与存在。 */
  #render(changed) {
    for (const id of changed) this.#renderRow(id);
    for (const [id, row] of this.#rows) if (!this.#messages.has(id)) this.#drop(id, row);
    let place = this.#list.firstElementChild;
    for (const id of this.ids) {
      const row = this.#rows.get(id);
      if (row === place) place = place.nextElementSibling;
      else this.#list.insertBefore(row, place);
    }
  }

  #renderRow(id) {
    const old = this.#rows.get(id);
    const row = element("li", { data: { id } }, this.#button(this.#messages.get(id)));
    this.#rows.set(id, row);
    if (!old) return;
    const focused = old.contains(document.activeElement);
    old.replaceWith(row);
    if (focused) row.firstElementChild.focus();
  }

  #button(message) {
    const id = message.message_id;
    const className = message.read_at ? "row" : "row unread";
    const selected = id === this.#selected;
    const button = element(
      "button",
      { type: "button", className, on: { click: () => this.#onOpen(id) } },
      avatar(message.sender),
      element("span", { className: "row-text" }, ...lines(message)),
    );
    if (selected) button.setAttribute("aria-current", "true");
    return button;
  }

  #drop(id, row) {
    row.remove();
    this.#rows.delete(id);
  }

  #moveFocus(event) {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const row = event.target.closest("li");
    if (!step || !row) return;
    event.preventDefault();
    row[step]?.firstElementChild.focus();
  }
}

function newestFirst(a, b) {
  return b.timestamp - a.timestamp || (a.message_id < b.message_id ? 1 : -1);
}

function lines(message) {
  const unread = message.read_at
    ? null
    : element("span", { className: "visually-hidden", textContent: `${say("unread")}. ` });
  const time = element("time", {
    dateTime: new Date(message.timestamp).toISOString(),
    textContent: shortTime(message.timestamp),
  });
  const sender = element("span", { className: "row-sender", textContent: senderName(message.sender) });
  const title = element("span", { className: "row-title", dir: "auto", textContent: titleOf(message) });
  const preview = message.content.slice(0, PREVIEW_CHARS).replace(/\s+/g, " ");
  return [
    element("span", { className: "row-line" }, unread, sender, time),
    element("span", { className: "row-line" }, isUrgent(message) ? urgentMark() : null, title),
    element("span", { className: "row-preview", dir: "auto", textContent: preview }),
  ];
}
