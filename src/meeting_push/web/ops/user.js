/** 一个人：连接、信箱、最近的消息，踢掉与吊销；还有全体的信箱里最满的、最慢的。 */

import { element } from "../element.js";
import { say } from "../words.js";
import { action, badge, choice, facts, finder, message, note, Panel, Table, user } from "./parts.js";
import { agoText, countText, durationText, momentText } from "./quantity.js";

// ── 信箱 ────────────────────────────────────────────────────────────────────

export function showMailboxes({ signal, call }, [given = "fullest"]) {
  const order = given === "slowest" ? "slowest" : "fullest";
  const orders = ["fullest", "slowest"].map((value) => ({ value, text: say(`ops.mailboxes.${value}`) }));
  const columns = [
    { title: say("ops.user"), fixed: true, wide: true, cell: ({ user_id: id, name }) => user(id, name) },
    { title: say("ops.mailbox.count"), number: true, cell: ({ count }) => countText(count) },
    { title: say("ops.mailbox.oldest"), number: true, cell: ({ oldest_age_ms: age }) => durationText(age) },
    { title: say("ops.online"), cell: ({ online }) => onlineBadge(online) },
  ];
  const table = new Table(columns, {
    key: ({ user_id: id }) => String(id),
    empty: say("ops.mailboxes.none"),
    caption: say("ops.view.mailboxes"),
  });
  const panel = new Panel(say(`ops.mailboxes.${order}.title`), {
    name: "mailboxes",
    signal,
    everyMs: 10_000,
    tools: [choice(say("ops.order"), orders, order, (value) => (location.hash = `#mailboxes/${value}`))],
    ask: () => call("GET", `mailboxes?order=${order}&limit=50`),
    show: ({ items, complete, at }) => [
      table.set(items).node,
      note(complete ? say("ops.mailboxes.at", { time: agoText(at) }) : say("ops.mailboxes.partial")),
    ],
  });
  return [panel.node];
}

const onlineBadge = (online) => (online ? badge(say("ops.online"), "good") : badge(say("ops.offline")));

// ── 一个人 ──────────────────────────────────────────────────────────────────

export function showUser({ signal, call }, [id]) {
  const find = finder(say("ops.user.id"), "user", id, { inputMode: "numeric" });
  if (!id) return [find, note(say("ops.user.hint")), onlineNow(call, signal)];
  const person = encodeURIComponent(id);
  const holder = {};
  const show = (seen) => personParts(seen, call, () => holder.panel.refresh());
  holder.panel = new Panel(say("ops.user.title", { id }), {
    name: "user",
    signal,
    everyMs: 5_000,
    ask: () => call("GET", `users/${person}/inspect`),
    show: (seen) => {
      holder.show ??= show(seen);
      return holder.show(seen);
    },
  });
  return [find, holder.panel.node, dangerous(id, call, () => holder.panel.refresh())];
}

function onlineNow(call, signal) {
  const columns = [
    { title: say("ops.user"), fixed: true, wide: true, cell: ({ user_id: id }) => user(id) },
    {
      title: say("ops.connections"),
      number: true,
      cell: ({ connection_count: count }) => countText(count),
    },
    { title: say("ops.status"), cell: ({ status }) => (status ? say(`ops.presence.${status}`) : "—") },
  ];
  const table = new Table(columns, {
    key: ({ user_id: id }) => String(id),
    empty: say("ops.online.none"),
    caption: say("ops.online.now"),
  });
  return new Panel(say("ops.online.now"), {
    name: "online",
    signal,
    everyMs: 5_000,
    ask: () => call("GET", "presence/online?limit=50"),
    show: ({ items, next_cursor: more }) => [
      table.set(items).node,
      ...(more ? [note(say("ops.first.shown", { count: items.length }))] : []),
    ],
  }).node;
}

/** 造一次，以后只换变了的：指着“踢掉”的手不落空。 */
function personParts({ user_id: id }, call, changed) {
  const connections = connectionTable(id, call, changed);
  const waiting = waitingTable();
  const latest = latestTable();
  const head = element("div");
  const title = (key) => element("h3", { textContent: say(key) });
  const titles = ["ops.connections", "ops.mailbox", "ops.messages.last"].map(title);
  return (seen) => {
    head.replaceChildren(
      facts([
        [say("ops.user.name"), seen.name ?? null],
        [say("ops.online"), onlineBadge(seen.online)],
        [say("ops.mailbox.count"), countText(seen.mailbox.count)],
        [say("ops.mailbox.oldest"), seen.mailbox.count ? durationText(seen.mailbox.oldest_age_ms) : null],
      ]),
    );
    const tables = [
      connections.set(seen.connections),
      waiting.set(seen.mailbox.items),
      latest.set(seen.last_messages),
    ];
    return [head, ...tables.flatMap((table, index) => [titles[index], table.node])];
  };
}

function connectionTable(id, call, changed) {
  const kick = (one) =>
    action("ops.kick", async () => {
      await call(
        "DELETE",
        `presence/users/${encodeURIComponent(id)}/connections/${encodeURIComponent(one.connection_id)}`,
      );
      changed();
    });
  const columns = [
    {
      title: say("ops.device"),
      fixed: true,
      wide: true,
      cell: (one) => [
        element("div", { dir: "auto", textContent: one.device_info || "—" }),
        element("span", { className: "mono muted", textContent: one.connection_id }),
      ],
    },
    { title: say("ops.address"), cell: ({ ip_address: address }) => address },
    { title: say("ops.status"), cell: ({ status }) => say(`ops.presence.${status}`) },
    {
      title: say("ops.node"),
      fixed: true,
      cell: ({ node_id: node }) =>
        node ? element("span", { className: "mono short", title: node, textContent: node.slice(-6) }) : "—",
    },
    { title: say("ops.connected.at"), number: true, cell: ({ connect_time: at }) => momentText(at) },
    { title: say("ops.heartbeat.at"), number: true, cell: ({ last_heartbeat: at }) => momentText(at) },
    { title: "", fixed: true, cell: kick },
  ];
  return new Table(columns, {
    key: ({ connection_id: one }) => one,
    empty: say("ops.connections.none"),
    caption: say("ops.connections"),
  });
}

const titled = (row) => [
  element("div", { className: "title", dir: "auto", textContent: row.title }),
  message(row.message_id),
];

function waitingTable() {
  const columns = [
    { title: say("ops.message"), fixed: true, wide: true, cell: titled },
    { title: say("ops.type"), cell: ({ message_type: kind }) => say(`ops.type.${kind}`) },
    { title: say("ops.priority"), number: true, cell: ({ priority }) => priority },
    { title: say("ops.accepted.at"), number: true, cell: ({ timestamp }) => momentText(timestamp) },
    { title: say("ops.expires.at"), number: true, cell: ({ expires_at: at }) => momentText(at) },
  ];
  return new Table(columns, {
    key: ({ message_id: id }) => id,
    empty: say("ops.mailbox.empty"),
    caption: say("ops.mailbox"),
  });
}

function latestTable() {
  const columns = [
    { title: say("ops.message"), fixed: true, wide: true, cell: titled },
    { title: say("ops.type"), cell: ({ message_type: kind }) => say(`ops.type.${kind}`) },
    { title: say("ops.priority"), number: true, cell: ({ priority }) => priority },
    { title: say("ops.accepted.at"), number: true, cell: ({ timestamp }) => momentText(timestamp) },
    { title: say("ops.state"), cell: ({ status, failure_reason: reason }) => stateOf(status, reason) },
    { title: say("ops.delivered.at"), number: true, cell: ({ delivered_at: at }) => momentText(at) },
  ];
  return new Table(columns, {
    key: ({ message_id: id }) => id,
    empty: say("ops.messages.none"),
    caption: say("ops.messages.last"),
  });
}

const KINDS = { delivered: "good", failed: "critical", expired: "warning" };

export function stateOf(status, reason) {
  const mark = badge(say(`ops.state.${status}`), KINDS[status]);
  return reason ? [mark, " ", element("code", { textContent: reason })] : mark;
}

/** 收不回来的：先问一声。 */
function dangerous(id, call, changed) {
  const person = encodeURIComponent(id);
  const kickAll = action("ops.kick.all", async () => {
    if (!confirm(say("ops.kick.all.sure", { id }))) return;
    await call("DELETE", `presence/users/${person}/connections`);
    changed();
  });
  const revoke = action(
    "ops.revoke",
    async () => {
      if (!confirm(say("ops.revoke.sure", { id }))) return;
      await call("POST", `users/${person}/revoke`);
      changed();
    },
    "secondary danger",
  );
  return element(
    "section",
    { className: "panel", data: { panel: "actions" } },
    element("header", {}, element("h2", { textContent: say("ops.actions") })),
    element("div", { className: "buttons" }, kickAll, revoke),
    note(say("ops.actions.hint")),
  );
}
