/** 失败：原因归类、失败的投递、死信；都可以重新入队。 */

import { element } from "../element.js";
import { say } from "../words.js";
import { action, badge, choice, message, note, pages, Panel, Table, user } from "./parts.js";
import { countText, durationText, momentText } from "./quantity.js";

const HOUR_S = 3_600;
const WINDOWS = [HOUR_S, 24 * HOUR_S, 7 * 24 * HOUR_S, 30 * 24 * HOUR_S];
const PAGE = 20;

export function showFailures({ signal, call }) {
  return [causes(call, signal), failedDeliveries(call, signal), deadLetters(call, signal)];
}

function causes(call, signal) {
  let window = 24 * HOUR_S;
  const values = WINDOWS.map((value) => ({ value, text: durationText(value * 1_000) }));
  const panel = new Panel(say("ops.causes"), {
    name: "causes",
    signal,
    everyMs: 15_000,
    tools: [
      choice(say("ops.window"), values, window, (value) => {
        window = value;
        panel.refresh();
      }),
    ],
    ask: () => call("GET", `deliveries/failures/causes?window_s=${window}`),
    show: ({ causes: classes, reasons, unknown = 0 }) =>
      element(
        "div",
        { className: "grid" },
        bars(say("ops.cause"), "ops.cause", { ...classes, unknown }),
        bars(say("ops.reason"), "ops.reason", reasons),
      ),
  });
  return panel.node;
}

/** 横条：长短是比例，数在右边。 */
function bars(title, words, counts) {
  const rows = Object.entries(counts)
    .filter(([, count]) => count > 0)
    .sort(([, a], [, b]) => b - a);
  if (rows.length === 0)
    return element("div", {}, element("h3", { textContent: title }), note(say("ops.causes.none")));
  const most = rows[0][1];
  return element(
    "div",
    {},
    element("h3", { textContent: title }),
    element(
      "ul",
      { className: "bars" },
      ...rows.map(([name, count]) => {
        const known = say(`${words}.${name}`);
        return element(
          "li",
          { data: { name } },
          element("span", { textContent: known.startsWith("ops.") ? name : known }),
          element("meter", { min: 0, max: most, value: count, aria: { hidden: "true" } }),
          element("b", { textContent: countText(count) }),
        );
      }),
    ),
  );
}

function failedDeliveries(call, signal) {
  const ask = (cursor) =>
    call(
      "GET",
      `deliveries/failures?limit=${PAGE}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`,
    );
  const requeue = (row) =>
    action("ops.requeue", async () => {
      await call("POST", `deliveries/failures/${row.message_id}/${row.user_id}/requeue`);
      panel.refresh();
    });
  const columns = [
    {
      title: say("ops.message"),
      fixed: true,
      wide: true,
      cell: (row) => [
        element("div", { className: "title", dir: "auto", textContent: row.title }),
        message(row.message_id),
      ],
    },
    { title: say("ops.recipient"), fixed: true, cell: ({ user_id: id }) => user(id) },
    { title: say("ops.reason"), cell: (row) => reasonOf(row) },
    { title: say("ops.attempts"), number: true, cell: ({ attempts }) => countText(attempts) },
    { title: say("ops.failed.at"), number: true, cell: ({ failed_at: at }) => momentText(at) },
    {
      title: "",
      fixed: true,
      cell: (row) =>
        row.expires_at > Date.now()
          ? requeue(row)
          : element("span", { className: "muted", textContent: say("ops.state.expired") }),
    },
  ];
  const table = new Table(columns, {
    key: (row) => `${row.message_id} ${row.user_id}`,
    empty: say("ops.failures.none"),
    caption: say("ops.failures"),
  });
  const rows = pages(table, ask, signal);
  const panel = new Panel(say("ops.failures"), {
    name: "failures",
    signal,
    ask: () => ask(null),
    show: (page) => rows.first(page),
  });
  return panel.node;
}

function reasonOf({ failure_reason: reason, cause }) {
  const text = element("code", { textContent: reason });
  return cause ? [text, " ", badge(say(`ops.cause.${cause}`))] : text;
}

function deadLetters(call, signal) {
  const chosen = new Set();
  const ask = (cursor) =>
    call("GET", `queues/dead-letter?limit=${PAGE}${cursor ? `&cursor=${cursor}` : ""}`);
  const told = element("p", { className: "told", role: "status" });
  const requeue = action(
    "ops.requeue.chosen",
    async () => {
      if (chosen.size === 0) {
        told.textContent = say("ops.choose.first");
        return;
      }
      const { requeued, skipped } = await call("POST", "queues/dead-letter/requeue", {
        body: { ids: [...chosen] },
      });
      told.textContent = say("ops.requeued", { requeued: requeued.length, skipped: skipped.length });
      chosen.clear();
      await panel.refresh();
    },
    "primary",
  );
  const pick = (letter) =>
    element("input", {
      type: "checkbox",
      disabled: letter.message_id === null,
      checked: chosen.has(letter.id),
      aria: { label: say("ops.choose", { id: letter.message_id ?? letter.id }) },
      data: { id: letter.id },
      on: { change: ({ target }) => (target.checked ? chosen.add(letter.id) : chosen.delete(letter.id)) },
    });
  const columns = [
    { title: say("ops.chosen"), fixed: true, cell: pick },
    {
      title: say("ops.message"),
      fixed: true,
      wide: true,
      cell: (letter) =>
        letter.message_id
          ? message(letter.message_id)
          : element("span", { className: "muted", textContent: say("ops.unreadable") }),
    },
    { title: say("ops.recipients"), fixed: true, wide: true, cell: recipientsOf },
    { title: say("ops.reason"), cell: ({ reason }) => element("code", { textContent: reason }) },
    { title: say("ops.queue"), cell: ({ queue }) => say(`ops.queue.${queue}`) },
    { title: say("ops.attempts"), number: true, cell: ({ attempt }) => countText(attempt) },
    { title: say("ops.died.at"), number: true, cell: ({ died_at: at }) => momentText(at) },
    { title: say("ops.expires.at"), number: true, cell: ({ expires_at: at }) => momentText(at) },
  ];
  const table = new Table(columns, {
    key: ({ id }) => id,
    empty: say("ops.dead.none"),
    caption: say("ops.dead"),
  });
  const rows = pages(table, ask, signal);
  const panel = new Panel(say("ops.dead"), {
    name: "dead",
    signal,
    ask: () => ask(null),
    show: (page) => {
      buttons.hidden = page.items.length === 0;
      return rows.first(page);
    },
  });
  const all = action("ops.choose.all", () => {
    for (const box of table.node.querySelectorAll("input:not(:disabled)")) {
      box.checked = true;
      chosen.add(box.dataset.id);
    }
  });
  const buttons = element("div", { className: "buttons", hidden: true }, all, requeue);
  panel.node.append(buttons, told);
  return panel.node;
}

function recipientsOf({ recipient_ids: ids }) {
  const shown = ids.slice(0, 5).flatMap((id, index) => (index ? [", ", user(id)] : [user(id)]));
  return ids.length > 5 ? [...shown, ` ${say("ops.and.more", { count: ids.length - 5 })}`] : shown;
}
