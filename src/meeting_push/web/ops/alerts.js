/** 告警：清单、处理、规则、试一试渠道；一条告警的时间线与前后的曲线。 */

import { element } from "../element.js";
import { language, say } from "../words.js";
import { Chart, joined } from "./chart.js";
import { action, badge, choice, facts, link, note, pages, Panel, Table } from "./parts.js";
import { durationText, momentText, numberText, valueText } from "./quantity.js";

const HEADERS = { "Accept-Language": language };
const HOUR_S = 3_600;
const SILENCES = [900, HOUR_S, 8 * HOUR_S, 24 * HOUR_S, 7 * 24 * HOUR_S];
/** 曲线画到触发之前、恢复之后这么久。 */
const AROUND_MS = 1_800_000;
const UNITS = { ms: /_ms$/, per_s: /_per_s$/, ratio: /_ratio$/ };

// ── 清单 ────────────────────────────────────────────────────────────────────

export function showAlerts({ signal, call }, [given = "firing"]) {
  const state = ["firing", "resolved", "all"].includes(given) ? given : "firing";
  const states = ["firing", "resolved", "all"].map((value) => ({
    value,
    text: say(`ops.alerts.${value}`),
  }));
  const list = new Panel(say("ops.view.alerts"), {
    name: "alerts",
    signal,
    everyMs: state === "resolved" ? 0 : 5_000,
    tools: [choice(say("ops.state"), states, state, (value) => (location.hash = `#alerts/${value}`))],
    ask: () => call("GET", `alerts?state=${state}&limit=50`, { headers: HEADERS }),
    show: (page) => rows.first(page),
  });
  const table = alertTable(call, () => list.refresh());
  const rows = pages(
    table,
    (cursor) => call("GET", `alerts?state=${state}&limit=50&cursor=${cursor}`, { headers: HEADERS }),
    signal,
  );
  const rules = new Panel(say("ops.rules"), {
    name: "rules",
    signal,
    ask: () => call("GET", "alerts/rules", { headers: HEADERS }),
    show: ({ items }) => ruleTable().set(items).node,
  });
  return [list.node, channelTest(call), rules.node];
}

function alertTable(call, changed) {
  const acknowledge = (alert) =>
    action("ops.acknowledge", async () => {
      await call("POST", `alerts/${alert.alert_id}/acknowledge`, { body: {} });
      changed();
    });
  const columns = [
    {
      title: say("ops.severity"),
      cell: ({ severity }) => badge(say(`ops.severity.${severity}`), severity),
    },
    {
      title: say("ops.rule"),
      fixed: true,
      wide: true,
      cell: ({ alert_id: id, rule, summary }) => [
        element("strong", {}, link(rule, "alert", id)),
        element("div", { textContent: summary }),
      ],
    },
    { title: say("ops.labels"), cell: ({ labels }) => labelsText(labels) },
    { title: say("ops.since"), number: true, cell: ({ started_at: at }) => momentText(at) },
    {
      title: say("ops.lasted"),
      number: true,
      cell: (alert) => durationText((alert.resolved_at ?? Date.now()) - alert.started_at),
    },
    { title: say("ops.handling"), cell: (alert) => handlingOf(alert) },
    {
      title: "",
      cell: (alert) => (alert.state === "firing" && !alert.acknowledged_by ? acknowledge(alert) : ""),
    },
  ];
  return new Table(columns, {
    key: (alert) => `${alert.alert_id} ${alert.state} ${alert.acknowledged_by}`,
    empty: say("ops.alerts.none"),
    caption: say("ops.view.alerts"),
  });
}

function handlingOf(alert) {
  const said = [];
  if (alert.state === "resolved") said.push(badge(say("ops.alerts.resolved"), "good"));
  if (alert.acknowledged_by) said.push(badge(say("ops.acknowledged.by", { name: alert.acknowledged_by })));
  if (alert.silenced_until > Date.now())
    said.push(badge(say("ops.silenced.until", { time: momentText(alert.silenced_until) })));
  return said.length ? said : [badge(say("ops.unhandled"), "warning")];
}

const labelsText = (labels) =>
  Object.entries(labels)
    .map(([name, value]) => `${name}=${value}`)
    .join(", ") || "—";

function ruleTable() {
  const columns = [
    {
      title: say("ops.rule"),
      wide: true,
      cell: (rule) => [
        element("strong", { textContent: rule.rule }),
        element("div", { className: "muted", textContent: plainSummary(rule) }),
      ],
    },
    {
      title: say("ops.severity"),
      cell: ({ severity }) => badge(say(`ops.severity.${severity}`), severity),
    },
    {
      title: say("ops.condition"),
      number: true,
      cell: (rule) => `${rule.comparison === "below" ? "<" : ">"} ${valueText(rule.threshold, rule.unit)}`,
    },
    {
      title: say("ops.window"),
      number: true,
      cell: ({ window_s: s }) => (s ? durationText(s * 1_000) : say("ops.window.now")),
    },
    {
      title: say("ops.for"),
      number: true,
      cell: ({ for_s: s }) => (s ? durationText(s * 1_000) : say("ops.at.once")),
    },
    {
      title: say("ops.enabled"),
      cell: ({ enabled }) => (enabled ? badge(say("ops.on"), "good") : badge(say("ops.off"))),
    },
  ];
  return new Table(columns, { key: ({ rule }) => rule, caption: say("ops.rules") });
}

/** 规则的一句话里留着空的地方：阈值与窗口填上，别的触发了才有。 */
function plainSummary({ summary, threshold, unit, window_s: s }) {
  const known = { threshold: valueText(threshold, unit), window: durationText(s * 1_000) };
  return summary.replace(/\{(\w+)\}/g, (_, name) => known[name] ?? "…");
}

function channelTest(call) {
  const input = element("input", { id: "channel", autocomplete: "off", maxLength: 200, required: true });
  const told = element("p", { role: "status", className: "told" });
  const form = element(
    "form",
    { className: "finder" },
    element("label", {}, element("span", { textContent: say("ops.channel") }), input),
    element("button", { type: "submit", className: "secondary", textContent: say("ops.channel.test") }),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    told.textContent = say("sending");
    try {
      await call("POST", "alerts/test", { body: { channel: input.value.trim() } });
      told.textContent = say("ops.channel.sent");
    } catch (error) {
      told.textContent =
        error.status === 404
          ? say("ops.channel.unknown")
          : say("ops.channel.failed", { message: error.message });
    }
  });
  return element(
    "section",
    { className: "panel", data: { panel: "channel" } },
    element("header", {}, element("h2", { textContent: say("ops.channels") })),
    form,
    told,
  );
}

// ── 一条 ────────────────────────────────────────────────────────────────────

export function showAlert({ signal, call, live }, [id = ""]) {
  const path = `alerts/${encodeURIComponent(id)}`;
  const curves = element("div", { className: "charts" });
  const shown = { drawn: false };
  const panel = new Panel(say("ops.alert"), {
    name: "alert",
    signal,
    everyMs: 5_000,
    tools: [link(say("ops.back"), "alerts")],
    ask: () => call("GET", path, { headers: HEADERS }),
    show: (alert) => {
      if (!shown.drawn) drawAround(alert, curves, { signal, call, live });
      shown.drawn = true;
      return alertFacts(alert);
    },
  });
  const act = async (what, body) => {
    await call("POST", `${path}/${what}`, { body, headers: HEADERS });
    panel.refresh();
  };
  return [panel.node, handling(act), curves];
}

function alertFacts(alert) {
  const runbook = /^https?:/.test(alert.runbook)
    ? element("a", { href: alert.runbook, rel: "noreferrer", target: "_blank", textContent: alert.runbook })
    : element("code", { textContent: `docs/${alert.runbook}` });
  return [
    element(
      "p",
      { className: "alert-head" },
      badge(say(`ops.severity.${alert.severity}`), alert.severity),
      badge(say(`ops.alerts.${alert.state}`), alert.state === "firing" ? "critical" : "good"),
      element("strong", { textContent: alert.rule }),
    ),
    element("p", { className: "summary", textContent: alert.summary }),
    facts([
      [say("ops.value"), numberText(alert.value)],
      [say("ops.threshold"), numberText(alert.threshold)],
      [say("ops.labels"), labelsText(alert.labels)],
      [say("ops.since"), momentText(alert.started_at)],
      [say("ops.resolved.at"), momentText(alert.resolved_at)],
      [
        say("ops.acknowledged"),
        alert.acknowledged_by ? `${alert.acknowledged_by} · ${momentText(alert.acknowledged_at)}` : null,
      ],
      [say("ops.silenced"), alert.silenced_until > Date.now() ? momentText(alert.silenced_until) : null],
      [say("ops.runbook"), runbook],
    ]),
    element("h3", { textContent: say("ops.timeline") }),
    timeline(alert.timeline ?? []),
  ];
}

function timeline(events) {
  if (events.length === 0) return note(say("ops.none"));
  return element("ol", { className: "timeline" }, ...events.map(timelineEntry));
}

function timelineEntry({ at, kind, by, channel, state, text, ok, until }) {
  const outcome = ok === undefined || ok === null ? "" : say(ok ? "ops.went.well" : "ops.went.badly");
  const end = until && say("ops.silenced.until", { time: momentText(until) });
  const said = [say(`ops.timeline.${kind}`), state && say(`ops.event.${state}`), channel, by, end, outcome]
    .filter(Boolean)
    .join(" · ");
  return element(
    "li",
    { data: { kind }, className: ok === false ? "bad" : "" },
    element("time", { textContent: momentText(at) }),
    element(
      "span",
      {},
      element("strong", { textContent: said }),
      text ? element("span", { className: "text", dir: "auto", textContent: text }) : "",
    ),
  );
}

function handling(act) {
  const text = element("textarea", { id: "note-text", rows: 2, maxLength: 4_000, dir: "auto" });
  const given = () => text.value.trim();
  const take = async (what, body) => {
    await act(what, body);
    text.value = "";
  };
  const silence = element(
    "select",
    { id: "silence-for", aria: { label: say("ops.silence.for") } },
    ...SILENCES.map((s) => element("option", { value: s, textContent: durationText(s * 1_000) })),
    element("option", { value: 0, textContent: say("ops.silence.end") }),
  );
  return element(
    "section",
    { className: "panel", data: { panel: "handling" } },
    element("header", {}, element("h2", { textContent: say("ops.handling") })),
    element("label", {}, element("span", { textContent: say("ops.note") }), text),
    element(
      "div",
      { className: "buttons" },
      action("ops.acknowledge", () => take("acknowledge", given() ? { text: given() } : {}), "primary"),
      action("ops.note.add", () => (given() ? take("notes", { text: given() }) : text.focus())),
      element(
        "span",
        { className: "pair" },
        silence,
        action("ops.silence", () => act("silence", { for_s: Number(silence.value) })),
      ),
    ),
  );
}

async function drawAround(alert, holder, { signal, call, live }) {
  const names = alert.figures ?? [];
  if (names.length === 0) return;
  const since = alert.started_at - AROUND_MS;
  const until = Math.min(Date.now(), (alert.resolved_at ?? Date.now()) + AROUND_MS);
  const marks = [alert.started_at, alert.resolved_at].filter(Boolean);
  const answer = await call(
    "GET",
    `stats/history?figures=${names.join(",")}&since=${since}&until=${until}`,
  ).catch(() => null);
  if (signal.aborted) return;
  if (answer === null) holder.replaceChildren(note(say("ops.history.failed")));
  for (const name of answer === null ? [] : names) {
    const unit = Object.keys(UNITS).find((each) => UNITS[each].test(name)) ?? "count";
    const chart = new Chart({ names: [name], unit, title: say(`ops.figure.${name}`), marks }, signal);
    holder.append(chart.node);
    chart.show(joined(answer, alert.resolved_at ? [] : live.recent, [name], since, until));
  }
}
