/** 总览：此刻的数、在触发的告警、曲线、队列、结局、常见的错误。 */

import { element } from "../element.js";
import { language, say } from "../words.js";
import { Chart, joined } from "./chart.js";
import { badge, choice, every, link, note, Panel, Table } from "./parts.js";
import { agoText, countText, durationText, figureText } from "./quantity.js";

const MINUTE = 60_000;
const RANGES = [
  ["15m", 15 * MINUTE],
  ["1h", 60 * MINUTE],
  ["6h", 360 * MINUTE],
  ["1d", 1_440 * MINUTE],
  ["7d", 10_080 * MINUTE],
  ["30d", 43_200 * MINUTE],
];
const RANGE_KEPT_AS = "meeting-push.ops.range";

const TILES = [
  ["sockets", "count"],
  ["online_users", "count"],
  ["accepted_per_s", "per_s"],
  ["pushed_per_s", "per_s"],
  ["acked_per_s", "per_s"],
  ["push_p50_ms", "ms"],
  ["push_p95_ms", "ms"],
  ["push_p99_ms", "ms"],
  ["queue_length", "count"],
  ["queue_lag_ms", "ms"],
  ["dead_letters", "count"],
  ["alerts_firing", "count"],
];
/** 点着去哪里。 */
const LEADS = { sockets: "nodes", dead_letters: "failures", alerts_firing: "alerts", online_users: "user" };

const CHARTS = [
  { names: ["sockets", "online_users"], unit: "count", title: "connections" },
  {
    names: ["accepted_per_s", "delivered_per_s", "pushed_per_s", "acked_per_s"],
    unit: "per_s",
    title: "rates",
  },
  { names: ["push_p50_ms", "push_p95_ms", "push_p99_ms"], unit: "ms", title: "latency" },
  { names: ["queue_length", "waiting_recipients"], unit: "count", title: "backlog" },
  { names: ["queue_lag_ms"], unit: "ms", title: "lag" },
  { names: ["failed_per_s", "expired_per_s"], unit: "per_s", title: "trouble" },
  { names: ["redis_round_trip_ms", "database_round_trip_ms", "loop_lag_ms"], unit: "ms", title: "parts" },
  {
    names: ["cpu_ratio", "memory_ratio", "disk_ratio", "open_files_ratio"],
    unit: "ratio",
    title: "resources",
  },
];
const FIGURES = CHARTS.flatMap(({ names }) => names);

export function showOverview({ live, signal, call }) {
  const tiles = new Tiles();
  const queues = queueTable();
  const outcomes = outcomeTable();
  const charts = new Charts(live, signal, call);
  const redraw = () => {
    if (live.stats === null) return;
    tiles.set(live.figures);
    queues.set(live.stats.queues);
    outcomes.set(outcomesOf(live));
    charts.draw();
  };
  live.addEventListener("figures", redraw, { signal });
  redraw();
  const firing = new Panel(say("ops.firing"), {
    name: "firing",
    signal,
    everyMs: 5_000,
    ask: () => call("GET", "alerts?state=firing&limit=20", { headers: { "Accept-Language": language } }),
    show: firingList,
  });
  const errors = new Panel(say("ops.errors"), {
    name: "errors",
    signal,
    everyMs: 30_000,
    ask: () => call("GET", "logs/events?window_s=3600&level=ERROR"),
    show: errorList,
  });
  return [
    tiles.node,
    firing.node,
    charts.node,
    element(
      "div",
      { className: "grid" },
      plainPanel("queues", say("ops.queues"), queues.node),
      plainPanel("outcomes", say("ops.outcomes"), outcomes.node),
      errors.node,
    ),
  ];
}

const plainPanel = (name, title, node) =>
  element(
    "section",
    { className: "panel", data: { panel: name } },
    element("header", {}, element("h2", { textContent: title })),
    node,
  );

class Tiles {
  #values = new Map();
  node = element("dl", { className: "tiles" });

  constructor() {
    for (const [name, unit] of TILES) {
      const value = element("dd", { textContent: "…" });
      const label = say(`ops.figure.${name}`);
      const term = LEADS[name] ? link(label, LEADS[name]) : label;
      this.#values.set(name, [value, unit]);
      this.node.append(
        element("div", { className: "tile", data: { figure: name } }, element("dt", {}, term), value),
      );
    }
  }

  set(figures) {
    for (const [name, [node, unit]] of this.#values) {
      node.textContent = figureText(figures[name], unit);
      const bad = ["alerts_firing", "dead_letters"].includes(name) && figures[name] > 0;
      node.parentElement.classList.toggle("bad", bad);
    }
  }
}

/** 一组图：一次取全部历史，实时的点各自接上。 */
class Charts {
  #live;
  #call;
  #signal;
  #answer = null;
  #charts;
  #told = note("");
  #range = sessionStorage.getItem(RANGE_KEPT_AS) ?? "1h";
  node;

  constructor(live, signal, call) {
    [this.#live, this.#call, this.#signal] = [live, call, signal];
    this.#charts = CHARTS.map(
      (spec) => new Chart({ ...spec, title: say(`ops.chart.${spec.title}`) }, signal),
    );
    this.#told.hidden = true;
    const values = RANGES.map(([value]) => ({ value, text: say(`ops.range.${value}`) }));
    const pick = choice(say("ops.range"), values, this.#range, (value) => this.#pick(value));
    this.node = element(
      "section",
      { className: "charts-block" },
      element("header", {}, element("h2", { textContent: say("ops.curves") }), pick),
      this.#told,
      element("div", { className: "charts" }, ...this.#charts.map((chart) => chart.node)),
    );
    this.#load();
    every(MINUTE, signal, () => this.#load());
    signal.addEventListener("abort", () => (this.#answer = null));
  }

  get #span() {
    return (RANGES.find(([name]) => name === this.#range) ?? RANGES[1])[1];
  }

  #pick(value) {
    this.#range = value;
    sessionStorage.setItem(RANGE_KEPT_AS, value);
    this.#load();
  }

  async #load() {
    const range = this.#range;
    const until = Date.now();
    const query = `figures=${FIGURES.join(",")}&since=${until - this.#span}&until=${until}`;
    try {
      const answer = await this.#call("GET", `stats/history?${query}`);
      if (range !== this.#range || this.#signal.aborted) return;
      this.#answer = answer;
      this.#told.hidden = true;
    } catch (error) {
      if (this.#signal.aborted) return;
      this.#told.textContent = say(error.status === 404 ? "ops.history.none" : "ops.history.failed");
      this.#told.hidden = false;
    }
    this.draw();
  }

  draw() {
    if (this.#signal.aborted) return;
    const until = Date.now();
    const since = until - this.#span;
    CHARTS.forEach(({ names }, index) => {
      this.#charts[index].show(joined(this.#answer, this.#live.recent, names, since, until));
    });
  }
}

function queueTable() {
  const columns = [
    { title: say("ops.queue"), cell: ({ name }) => say(`ops.queue.${name}`), wide: true },
    { title: say("ops.queue.length"), number: true, cell: ({ length }) => countText(length) },
    { title: say("ops.queue.pending"), number: true, cell: ({ pending }) => countText(pending) },
    {
      title: say("ops.queue.oldest"),
      number: true,
      cell: (row) => (row.length + row.pending ? durationText(row.oldest_age_ms) : "—"),
    },
  ];
  return new Table(columns, { key: ({ name }) => name, caption: say("ops.queues") });
}

function outcomeTable() {
  const columns = [
    { title: say("ops.state"), cell: ({ state }) => say(`ops.state.${state}`), wide: true },
    { title: say("ops.outcome.count"), number: true, cell: ({ count }) => countText(count) },
    {
      title: say("ops.outcome.rate"),
      number: true,
      cell: ({ rate }) => (rate === null ? "—" : figureText(rate, "per_s")),
    },
  ];
  return new Table(columns, { key: ({ state }) => state, caption: say("ops.outcomes") });
}

function outcomesOf({ stats, figures }) {
  const added = (group, state) =>
    stats.nodes.reduce((so, node) => so + (node[group].recipients_ended?.[state] ?? 0), 0);
  const ended = ["delivered", "failed", "expired"].map((state) => ({
    state,
    count: added("totals", state),
    rate: added("per_s", state),
  }));
  return [{ state: "unacked", count: figures.waiting_recipients, rate: null }, ...ended];
}

function firingList({ items }) {
  if (items.length === 0) return note(say("ops.firing.none"));
  return element(
    "ul",
    { className: "firing" },
    ...items.map((alert) =>
      element(
        "li",
        {},
        badge(say(`ops.severity.${alert.severity}`), alert.severity),
        link(alert.summary, "alert", alert.alert_id),
        element("span", { className: "muted", textContent: agoText(alert.started_at) }),
      ),
    ),
  );
}

function errorList({ items }) {
  const seen = items
    .filter(({ count }) => count > 0)
    .sort((a, b) => b.count - a.count)
    .slice(0, 8);
  const columns = [
    {
      title: say("ops.event"),
      wide: true,
      cell: ({ event, code }) => (code ? `${event} · ${code}` : event),
    },
    { title: say("ops.count"), number: true, cell: ({ count }) => countText(count) },
  ];
  const table = new Table(columns, {
    key: ({ event, code }) => `${event} ${code}`,
    empty: say("ops.errors.none"),
  });
  return [table.set(seen).node, element("p", { className: "more" }, link(say("ops.logs.all"), "logs"))];
}
