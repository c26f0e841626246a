/** 日志：全体各进程里每种事件出现了几次，随时间；没有日志的正文。 */

import { element } from "../element.js";
import { say } from "../words.js";
import { badge, choice, Panel, Table } from "./parts.js";
import { countText, durationText } from "./quantity.js";

const HOUR_S = 3_600;
const WINDOWS = [HOUR_S, 6 * HOUR_S, 24 * HOUR_S];
const LEVELS = ["all", "error", "warning", "info"];
const KINDS = { error: "critical", critical: "critical", warning: "warning" };
const SVG = "http://www.w3.org/2000/svg";

export function showLogs({ signal, call }) {
  const wanted = { window: HOUR_S, level: "all" };
  const pick = (name) => (value) => {
    wanted[name] = value;
    panel.refresh();
  };
  const windows = WINDOWS.map((value) => ({ value, text: durationText(value * 1_000) }));
  const levels = LEVELS.map((value) => ({ value, text: say(`ops.level.${value}`) }));
  const columns = [
    {
      title: say("ops.event"),
      fixed: true,
      wide: true,
      cell: ({ event, code }) => element("code", { textContent: code ? `${event} · ${code}` : event }),
    },
    { title: say("ops.level"), cell: ({ level }) => badge(levelText(level), KINDS[level.toLowerCase()]) },
    { title: say("ops.count"), number: true, cell: ({ count }) => countText(count) },
    { title: say("ops.over.time"), cell: ({ by_time: counts }) => spark(counts) },
  ];
  const table = new Table(columns, {
    key: ({ event, level, code }) => `${event} ${level} ${code}`,
    empty: say("ops.logs.none"),
    caption: say("ops.view.logs"),
  });
  const panel = new Panel(say("ops.events"), {
    name: "logs",
    signal,
    everyMs: 10_000,
    tools: [
      choice(say("ops.level"), levels, wanted.level, pick("level")),
      choice(say("ops.window"), windows, wanted.window, pick("window")),
    ],
    ask: () =>
      call(
        "GET",
        `logs/events?window_s=${wanted.window}${wanted.level === "all" ? "" : `&level=${wanted.level.toUpperCase()}`}`,
      ),
    show: ({ items }) => table.set([...items].sort((a, b) => b.count - a.count)).node,
  });
  return [panel.node];
}

function levelText(level) {
  const known = say(`ops.level.${level.toLowerCase()}`);
  return known.startsWith("ops.") ? level : known;
}

/** 一行里的小柱图；每根柱是一段时间。 */
function spark(counts) {
  const most = Math.max(1, ...counts);
  const drawing = document.createElementNS(SVG, "svg");
  const width = Math.max(counts.length, 1);
  drawing.setAttribute("viewBox", `0 0 ${width} 10`);
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("class", "spark");
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", say("ops.spark", { most: countText(most) }));
  counts.forEach((count, index) => {
    if (!count) return;
    const bar = document.createElementNS(SVG, "rect");
    const height = Math.max(1, (count / most) * 10);
    for (const [name, value] of Object.entries({ x: index + 0.1, y: 10 - height, width: 0.8, height }))
      bar.setAttribute(name, value);
    drawing.append(bar);
  });
  return drawing;
}
