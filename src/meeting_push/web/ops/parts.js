/** 各屏共用的部件：取数据的一块、表格、一组数、按钮、查找的表单。 */

import { element } from "../element.js";
import { explain, say } from "../words.js";
import { NONE } from "./quantity.js";

/**
 * 取数据的一块：取不到就在这一块里说，别的照常。
 *
 * `ask()` 给数据，`show(data)` 给节点；`everyMs` 大于 0 就定时再取，`tools` 放在标题旁。
 */
export class Panel {
  #options;
  #body = element("div", { className: "panel-body", textContent: say("list.loading") });
  #asked = 0;
  node;

  constructor(title, { signal, ask, show, everyMs = 0, tools = [], name = "" }) {
    this.#options = { signal, ask, show };
    this.node = element(
      "section",
      { className: "panel", data: { panel: name } },
      element("header", {}, element("h2", { textContent: title }), ...tools),
      this.#body,
    );
    this.refresh();
    if (everyMs > 0) every(everyMs, signal, () => this.refresh());
  }

  /** 再取一次；旧的留到新的来。 */
  async refresh() {
    const { signal, ask, show } = this.#options;
    const mine = ++this.#asked;
    try {
      const data = await ask();
      if (mine === this.#asked && !signal.aborted) this.#put([show(data)].flat());
    } catch (error) {
      if (mine === this.#asked && !signal.aborted) this.#body.replaceChildren(this.#trouble(error));
    }
  }

  /** 同样的节点不动：动了焦点就丢了。 */
  #put(nodes) {
    const { childNodes } = this.#body;
    const same = nodes.length === childNodes.length && nodes.every((node, at) => childNodes[at] === node);
    if (!same) this.#body.replaceChildren(...nodes);
  }

  #trouble(error) {
    if (error.status === 404) return note(say("ops.unavailable"));
    if (error.status === undefined) reportError(error);
    return element(
      "p",
      { className: "trouble", role: "alert" },
      element("span", { textContent: explain(error) }),
      button("retry", () => this.refresh(), "link"),
    );
  }
}

/** 页面看得见时每隔这么久做一次，到 `signal` 中止。 */
export function every(ms, signal, act) {
  const timer = setInterval(() => !document.hidden && act(), ms);
  signal.addEventListener("abort", () => clearInterval(timer));
}

/**
 * 表格：`columns` 是 { title, cell(row), number, wide }；`key(row)` 认得出同一行。
 * 再 `set` 时只动变了的格子：指着的、展开的、有焦点的都不动。
 */
export class Table {
  #columns;
  #key;
  #empty;
  #rows = new Map();
  #body = element("tbody");
  node;

  constructor(columns, { key, empty = say("ops.none"), caption = "" }) {
    this.#columns = columns;
    this.#key = key;
    const heads = columns.map(({ title, number }) =>
      element("th", { scope: "col", className: number ? "number" : "", textContent: title }),
    );
    this.#empty = note(empty);
    this.node = element(
      "div",
      { className: "table" },
      element(
        "table",
        {},
        element("caption", { className: "visually-hidden", textContent: caption }),
        element("thead", {}, element("tr", {}, ...heads)),
        this.#body,
      ),
      this.#empty,
    );
  }

  set(rows) {
    const seen = new Map();
    for (const row of rows) seen.set(this.#key(row), this.#fill(this.#rows.get(this.#key(row)), row));
    const now = [...seen.values()];
    if (
      now.length !== this.#body.children.length ||
      now.some((node, at) => this.#body.children[at] !== node)
    ) {
      this.#body.replaceChildren(...now);
    }
    this.#rows = seen;
    this.node.firstElementChild.hidden = rows.length === 0;
    this.#empty.hidden = rows.length > 0;
    return this;
  }

  #fill(line, row) {
    const known = line ?? element("tr", {}, ...this.#columns.map(cellOf));
    this.#columns.forEach(({ cell, fixed }, index) => {
      const given = cell(row) ?? NONE;
      const target = known.children[index];
      if (typeof given !== "object") {
        if (target.textContent !== String(given)) target.textContent = given;
      } else if (line === undefined || !fixed) {
        target.replaceChildren(...[given].flat());
      }
    });
    return known;
  }
}

const cellOf = ({ title, number, wide }) =>
  element("td", {
    className: [number ? "number" : "", wide ? "wide" : ""].join(" ").trim(),
    data: { title },
  });

export const note = (text) => element("p", { className: "note", textContent: text });

/** 按钮，文字是 `say(key)`。 */
export function button(key, act, className = "secondary", props = {}) {
  return element("button", {
    type: "button",
    className,
    textContent: say(key),
    on: { click: act },
    ...props,
  });
}

/** 一个动作：做的时候按不了第二下，错了就在旁边说。 */
export function action(key, act, className = "secondary") {
  const told = element("span", { className: "told", role: "status" });
  const node = button(
    key,
    async () => {
      node.disabled = true;
      told.textContent = "";
      try {
        await act();
      } catch (error) {
        if (error.status === undefined) reportError(error);
        told.textContent = explain(error);
      } finally {
        node.disabled = false;
      }
    },
    className,
  );
  return element("span", { className: "action" }, node, told);
}

/** 一串选项，选中的那个按下去；`change(value)`。 */
export function choice(label, values, chosen, change) {
  const nodes = values.map(({ value, text }) =>
    element("button", {
      type: "button",
      textContent: text,
      aria: { pressed: String(value === chosen) },
      on: {
        click: () => {
          for (const node of nodes)
            node.setAttribute(
              "aria-pressed",
              String(node === nodes[values.findIndex((one) => one.value === value)]),
            );
          change(value);
        },
      },
    }),
  );
  return element("div", { className: "choice", role: "group", aria: { label } }, ...nodes);
}

/** 标签与值的一列；`pairs` 是 [标签, 值（文字或节点）]。 */
export function facts(pairs) {
  return element(
    "dl",
    { className: "facts" },
    ...pairs.map(([name, value]) =>
      element(
        "div",
        {},
        element("dt", { textContent: name }),
        element("dd", {}, ...[value ?? NONE].flat()),
      ),
    ),
  );
}

/** 一行可以点的地址；`to` 是片段的各节。 */
export function link(text, ...to) {
  const parts = to.map((part) => encodeURIComponent(part));
  return element("a", { href: `#${parts.join("/")}`, textContent: text });
}

export const user = (id, name = null) => link(name ? `${name} (${id})` : String(id), "user", id);
export const message = (id) => element("span", { className: "mono" }, link(id, "message", id));

/** 一个小标牌；`kind` 定颜色，文字说同一件事。 */
export const badge = (text, kind = "plain") =>
  element("span", { className: `tag tag-${kind}`, textContent: text });

/** 填一个号、去看它的一屏。 */
export function finder(label, view, given, { inputMode = "text", placeholder = "" } = {}) {
  const input = element("input", {
    id: `find-${view}`,
    value: given ?? "",
    inputMode,
    placeholder,
    required: true,
    autocomplete: "off",
    spellcheck: false,
  });
  const submit = (event) => {
    event.preventDefault();
    const wanted = `#${view}/${encodeURIComponent(input.value.trim())}`;
    if (location.hash === wanted) window.dispatchEvent(new HashChangeEvent("hashchange"));
    else location.hash = wanted;
  };
  return element(
    "form",
    { className: "finder", on: { submit } },
    element("label", {}, element("span", { textContent: label }), input),
    element("button", { type: "submit", className: "primary", textContent: say("ops.find") }),
  );
}

/** 按游标翻页的表：`ask(cursor)` 给 { items, next_cursor }。 */
export function pages(table, ask, signal) {
  const items = [];
  let cursor = null;
  const more = action("list.more", async () => {
    const page = await ask(cursor);
    if (signal.aborted) return;
    take(page);
  });
  const take = (page) => {
    items.push(...page.items);
    cursor = page.next_cursor;
    table.set(items);
    more.hidden = !cursor;
  };
  return {
    /** 第一页；已经翻开的收起来。 */
    first(page) {
      items.length = 0;
      take(page);
      return [table.node, more];
    },
  };
}
