import { nameOf } from "./address-book.js";
import { element } from "./element.js";
import { listed, say, shortTime } from "./words.js";

export const URGENT_PRIORITY = 5;
export const isUrgent = (message) => message.priority >= URGENT_PRIORITY;
/** 头像的底色有几种；颜色在 CSS 里。 */
const TONES = 6;
const PREVIEW_CHARS = 160;
/** 发给再多的人，只说少一个的名字和还有几个。 */
const MOST_NAMED = 3;
/** 再多就只画看得见的，连同上下各这么多行。 */
const ALL = 100;
const AROUND = 30;

/** 没有 id（null，从前的 0）的是系统。 */
export function senderName(sender) {
  const { id, name } = sender ?? {};
  return name || (id ? nameOf(id) : say("sender.system"));
}

export const titleOf = ({ withdrawn, title }) => (withdrawn ? say("withdrawn") : title);

export function avatar(sender) {
  const initial = [...senderName(sender).trim()][0] ?? "?";
  const data = { tone: toneOf(sender?.id ?? 0) };
  return element("span", { className: "avatar", textContent: initial, data, aria: { hidden: true } });
}

function toneOf(id) {
  return [...String(id)].reduce((sum, letter) => sum + letter.codePointAt(0), 0) % TONES;
}

export function marks(message) {
  const found = [];
  if (isUrgent(message)) {
    found.push(element("span", { className: "urgent-mark", textContent: say("urgent") }));
  }
  const kinds = message.message_type === "message" ? [] : [`type.${message.message_type}`];
  if (message.broadcast) kinds.push("type.broadcast");
  for (const kind of kinds) found.push(element("span", { className: "type-mark", textContent: say(kind) }));
  return found;
}

/** 新的在前的一列；几千条时只画看得见的那些，滚动与键盘照常。 */
export class MessageList {
  #list;
  #scroller;
  #onOpen;
  #onNear;
  #items = [];
  #rows = new Map();
  #selected = null;
  /** 焦点最后在哪一条：它滚出去之后，键盘从那里接着走。 */
  #active = null;
  /** 一行连同间隔多高；量过才知道。 */
  #pitch = 0;
  #drawing = 0;

  /** `onNear()`：滚到快没有了。 */
  constructor(list, scroller, { onOpen, onNear }) {
    [this.#list, this.#scroller, this.#onOpen, this.#onNear] = [list, scroller, onOpen, onNear];
    list.addEventListener("keydown", (event) => this.#moveFocus(event));
    list.addEventListener("focusin", ({ target }) => {
      this.#active = target.closest("li")?.dataset.id ?? this.#active;
    });
    scroller.addEventListener("scroll", () => this.#drawSoon(), { passive: true });
    window.addEventListener("resize", () => ((this.#pitch = 0), this.#drawSoon()));
  }

  get size() {
    return this.#items.length;
  }

  /** `fresh` 里的亮一下。 */
  show(items, fresh = []) {
    this.#items = items;
    this.#draw();
    for (const { message_id: id } of fresh) this.#rows.get(id)?.row.classList.add("arrived");
  }

  select(id) {
    this.#selected = id;
    this.#draw();
  }

  /** 第 `step` 条之后（前）的 id；没有选着的是第一条。 */
  beside(step) {
    const at = this.#items.findIndex(({ message_id: id }) => id === (this.#selected ?? this.#active));
    return this.#items[at < 0 ? 0 : at + step]?.message_id ?? null;
  }

  focus(id) {
    const at = Math.max(0, this.#items.findIndex(({ message_id: each }) => each === id));
    this.#reveal(at);
    (this.#rows.get(this.#items[at]?.message_id)?.row.firstElementChild ?? this.#list).focus();
  }

  #drawSoon() {
    this.#drawing ||= requestAnimationFrame(() => ((this.#drawing = 0), this.#draw()));
  }

  #draw() {
    const [from, to] = this.#window();
    const shown = this.#items.slice(from, to);
    const wanted = new Set(shown.map(({ message_id: id }) => id));
    for (const [id, { row }] of this.#rows) if (!wanted.has(id)) this.#drop(id, row);
    shown.forEach((item, index) => {
      const row = this.#row(item, from + index);
      const there = this.#list.children[index] ?? null;
      if (row !== there) this.#list.insertBefore(row, there);
    });
    this.#list.style.paddingBlock = `${from * this.#pitch}px ${(this.#items.length - to) * this.#pitch}px`;
    this.#measure();
    const { scrollTop, clientHeight, scrollHeight } = this.#scroller;
    if (scrollTop > 0 && scrollTop + clientHeight * 2 > scrollHeight) this.#onNear();
  }

  #window() {
    const count = this.#items.length;
    if (count <= ALL || !this.#pitch) return [0, Math.min(count, ALL)];
    const top = this.#scroller.scrollTop - this.#list.offsetTop;
    const first = Math.floor(top / this.#pitch) - AROUND;
    const from = Math.min(Math.max(0, first), Math.max(0, count - 1));
    const rows = Math.ceil(this.#scroller.clientHeight / this.#pitch) + 2 * AROUND;
    return [from, Math.min(count, from + rows)];
  }

  #measure() {
    const [one, two] = this.#list.children;
    if (this.#pitch || !two) return;
    this.#pitch = two.offsetTop - one.offsetTop;
    if (this.#items.length > ALL && this.#pitch) this.#draw();
  }

  #reveal(at) {
    const count = this.#items.length;
    if (count <= ALL || !this.#pitch) return;
    const top = this.#list.offsetTop + at * this.#pitch;
    const { scrollTop, clientHeight } = this.#scroller;
    if (top < scrollTop || top + this.#pitch > scrollTop + clientHeight) {
      this.#scroller.scrollTop = top - clientHeight / 2;
    }
    this.#draw();
  }

  /** 没变的行不动：焦点在原处。 */
  #row(item, at) {
    const id = item.message_id;
    const selected = id === this.#selected;
    const shown = JSON.stringify([item, selected, whoOf(item)]);
    let known = this.#rows.get(id);
    if (known?.shown !== shown) {
      const row = element("li", { data: { id } }, this.#button(item, selected));
      const focused = known?.row.contains(document.activeElement);
      known?.row.replaceWith(row);
      if (focused) row.firstElementChild.focus({ preventScroll: true });
      this.#rows.set(id, (known = { row, shown }));
    }
    known.row.setAttribute("aria-setsize", String(this.#items.length));
    known.row.setAttribute("aria-posinset", String(at + 1));
    return known.row;
  }

  #button(item, selected) {
    const button = element(
      "button",
      {
        type: "button",
        className: item.read ? "row" : "row unread",
        on: { click: () => this.#onOpen(item.message_id) },
      },
      item.sent ? null : avatar(item.sender),
      element("span", { className: "row-text" }, ...lines(item)),
    );
    if (selected) button.setAttribute("aria-current", "true");
    return button;
  }

  #drop(id, row) {
    const focused = row.contains(document.activeElement);
    row.remove();
    this.#rows.delete(id);
    if (focused) this.#list.focus({ preventScroll: true });
  }

  #moveFocus(event) {
    const at = this.#items.findIndex(({ message_id: id }) => id === this.#active);
    const last = this.#items.length - 1;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (to === undefined || !this.#items[to]) return;
    event.preventDefault();
    this.focus(this.#items[to].message_id);
  }
}

function lines(item) {
  const unread = item.read
    ? null
    : element("span", { className: "visually-hidden", textContent: `${say("unread")}. ` });
  const time = element("time", {
    dateTime: new Date(item.timestamp).toISOString(),
    textContent: shortTime(item.timestamp),
  });
  const [who, more] = whoOf(item);
  const sender = element(
    "span",
    { className: "row-sender" },
    element("span", { className: "row-names", textContent: who }),
    more ? element("span", { className: "row-more", textContent: more }) : null,
  );
  const title = element("span", { className: "row-title", dir: "auto", textContent: titleOf(item) });
  const preview = item.content.slice(0, PREVIEW_CHARS).replace(/\s+/g, " ");
  return [
    element("span", { className: "row-line" }, unread, sender, time),
    element("span", { className: "row-line" }, ...marks(item), title),
    element("span", { className: "row-preview", dir: "auto", textContent: preview || "\u00a0" }),
  ];
}

/** 谁发的、发给谁；收件人多的只说两个，还有几个另说：名字放不下时它仍看得见。 */
function whoOf(item) {
  const { sent, broadcast, recipient_count: count, recipients, sender } = item;
  if (!sent) return [senderName(sender)];
  if (broadcast) return [say("sent.everybody")];
  if (recipients.length === 0) return [say("sent.to", { count })];
  const named = recipients.slice(0, count > MOST_NAMED ? MOST_NAMED - 1 : MOST_NAMED);
  const who = named.map(({ user_id: id }) => nameOf(id));
  const more = count - who.length;
  if (more <= 0) return [say("sent.names", { names: listed(who) })];
  const names = who.join(say("and"));
  return [say("sent.names", { names }), say("sent.more", { count, more })];
}
