/** 节点与进程：每个进程一行；点进去看它的每一个数。 */

import { element } from "../element.js";
import { say } from "../words.js";
import { badge, facts, link, note, Table } from "./parts.js";
import { agoText, countText, durationText, figureText, momentText } from "./quantity.js";

/** 报告这么久没来，这个进程多半不在了。 */
const LATE_MS = 15_000;

export function showNodes({ live, signal }, [wanted]) {
  const title = element("p", { className: "lead" });
  const table = nodeTable();
  const details = element("section", { className: "panel", hidden: true });
  const redraw = () => {
    if (live.stats === null) return;
    const { nodes } = live.stats;
    title.textContent = say("ops.nodes.summary", {
      count: nodes.length,
      sockets: countText(live.stats.sockets),
    });
    table.set([...nodes].sort((a, b) => a.role.localeCompare(b.role) || a.started_at - b.started_at));
    const one = nodes.find(({ node_id: id }) => id === wanted);
    details.hidden = wanted === undefined;
    if (wanted !== undefined) showOne(details, one, live.stats.generated_at);
  };
  live.addEventListener("figures", redraw, { signal });
  redraw();
  return [title, element("section", { className: "panel" }, table.node), details];
}

function nodeTable() {
  const usage = (name) => (node) => figureText(node.gauges.resource_usage_ratio?.[name], "ratio");
  const columns = [
    {
      title: say("ops.process"),
      fixed: true,
      wide: true,
      cell: ({ node_id: id }) => element("span", { className: "mono" }, link(id, "nodes", id)),
    },
    { title: say("ops.role"), cell: ({ role }) => role },
    { title: say("ops.version"), cell: ({ version }) => version },
    { title: say("ops.health"), cell: healthOf },
    { title: say("ops.figure.sockets"), number: true, cell: ({ gauges }) => countText(gauges.sockets) },
    { title: say("ops.transports"), cell: ({ gauges }) => transportsText(gauges) },
    {
      title: say("ops.pushed"),
      number: true,
      cell: (node) => figureText(node.per_s.frames_pushed, "per_s"),
    },
    { title: say("ops.figure.cpu_ratio"), number: true, cell: usage("cpu") },
    { title: say("ops.figure.memory_ratio"), number: true, cell: usage("memory") },
    {
      title: say("ops.figure.loop_lag_ms"),
      number: true,
      cell: ({ gauges }) =>
        durationText(
          gauges.event_loop_lag_max_seconds === undefined
            ? null
            : gauges.event_loop_lag_max_seconds * 1_000,
        ),
    },
    { title: say("ops.uptime"), number: true, cell: ({ started_at: at }) => durationText(Date.now() - at) },
    { title: say("ops.reported"), number: true, cell: ({ reported_at: at }) => agoText(at) },
  ];
  return new Table(columns, { key: ({ node_id: id }) => id, caption: say("ops.view.nodes") });
}

/** 有人走的各条路；路上没有人的不说。 */
function transportsText({ connections_by_transport: counts = {} }) {
  const used = Object.entries(counts).filter(([, count]) => count > 0);
  return used.map(([way, count]) => `${say(`ops.transport.${way}`)} ${countText(count)}`).join(" · ") || "–";
}

function healthOf({ gauges, reported_at: at }) {
  if (Date.now() - at > LATE_MS) return badge(say("ops.health.silent"), "warning");
  const failing = [...namesOf(gauges.part_failing), ...namesOf(gauges.loop_failing)];
  if (failing.length) return badge(failing.join(", "), "critical");
  return gauges.ready === 0
    ? badge(say("ops.health.unready"), "critical")
    : badge(say("ops.health.good"), "good");
}

const namesOf = (values) => Object.entries(values ?? {}).flatMap(([name, value]) => (value ? [name] : []));

function showOne(panel, node) {
  if (!node) {
    panel.replaceChildren(note(say("ops.nodes.gone")));
    return;
  }
  const head = element(
    "header",
    {},
    element("h2", { className: "mono", textContent: node.node_id }),
    link(say("ops.close"), "nodes"),
  );
  const open = new Set([...panel.querySelectorAll("details[open]")].map((each) => each.dataset.group));
  const latency = Object.entries(node.latency_ms).map(([name, one]) => [
    say(`ops.latency.${name}`),
    one.count
      ? `p50 ${durationText(one.p50)} · p95 ${durationText(one.p95)} · p99 ${durationText(one.p99)}`
      : say("ops.none"),
  ]);
  panel.replaceChildren(
    head,
    facts([
      [say("ops.role"), node.role],
      [say("ops.version"), node.version],
      [say("ops.started"), momentText(node.started_at)],
      ...latency,
    ]),
    group("gauges", node.gauges, open),
    group("per_s", node.per_s, open),
    group("totals", node.totals, open),
  );
}

/** 不是零的数；有标签的各占一行。 */
function group(name, figures, open) {
  const pairs = Object.entries(figures).flatMap(([figure, value]) =>
    typeof value === "object"
      ? Object.entries(value).map(([label, each]) => [`${figure}{${label}}`, each])
      : [[figure, value]],
  );
  const shown = pairs
    .filter(([, value]) => value !== 0)
    .map(([figure, value]) => [figure, String(Math.round(value * 1_000) / 1_000)]);
  return element(
    "details",
    { data: { group: name }, open: open.has(name) },
    element("summary", { textContent: say(`ops.group.${name}`, { count: shown.length }) }),
    shown.length ? facts(shown) : note(say("ops.none")),
  );
}
