/** 曲线：历史（`GET /stats/history`）接上实时的点，uPlot 画。 */

import { element } from "../element.js";
import { locale, say } from "../words.js";
import uPlot from "../vendor/uPlot.esm.js";
import { figureText } from "./quantity.js";

const COLORS = ["--line-1", "--line-2", "--line-3", "--line-4"];
const DASHES = [undefined, [6, 4], [2, 3], [10, 3, 2, 3]];
const HEIGHT = 170;
/** 历史的最后几行可以还没有记好。 */
const LATE_ROWS = 3;
const sync = uPlot.sync("ops");

const hours = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const exact = new Intl.DateTimeFormat(locale, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});
const days = new Intl.DateTimeFormat(locale, { month: "numeric", day: "numeric" });
const moment = new Intl.DateTimeFormat(locale, { dateStyle: "short", timeStyle: "medium" });

/**
 * 一张图。`names`：它的几条线；`unit` 见 `quantity.js`；`marks`：竖线的时刻（毫秒）。
 * `signal` 中止时连同监听一起消失。
 */
export class Chart {
  #plot = null;
  #holder = element("div", { className: "plot" });
  #readout = element("p", { className: "readout" });
  #spec;
  node;

  constructor(spec, signal) {
    this.#spec = { marks: [], ...spec };
    this.node = element(
      "figure",
      { className: "chart", data: { chart: spec.names[0] } },
      element("figcaption", { textContent: spec.title }),
      this.#readout,
      this.#holder,
    );
    const observer = new ResizeObserver(([{ contentRect }]) => this.#fit(contentRect.width));
    observer.observe(this.#holder);
    signal.addEventListener("abort", () => {
      observer.disconnect();
      this.#plot?.destroy();
      this.#plot = null;
    });
  }

  /** `at`：毫秒，升序；`columns[name]`：同样长，没有的是 null。 */
  show({ at, columns, since, until }) {
    this.#data = [at, ...this.#spec.names.map((name) => columns[name] ?? at.map(() => null))];
    this.#range = [since, until];
    if (this.#plot === null) this.#make();
    else this.#plot.setData(this.#data);
    this.#read();
  }

  #data = null;
  #range = [0, 1];

  #fit(width) {
    if (width === 0) return;
    if (this.#plot) this.#plot.setSize({ width, height: HEIGHT });
    else if (this.#data) this.#make();
  }

  #make() {
    const width = this.#holder.clientWidth;
    if (width === 0) return;
    this.#plot = new uPlot(this.#options(width), this.#data, this.#holder);
  }

  #options(width) {
    const { names, unit } = this.#spec;
    const ink = colorOf(this.#holder, "--ink-soft");
    const grid = { stroke: colorOf(this.#holder, "--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: { show: false }, font: "12px sans-serif", gap: 4 };
    return {
      width,
      height: HEIGHT,
      ms: 1,
      legend: { show: false },
      padding: [8, 10, 0, 0],
      cursor: { y: false, sync: { key: sync.key }, drag: { x: false, y: false } },
      scales: {
        x: { range: () => this.#range },
        y: { range: (_, low, high) => [Math.min(0, low ?? 0), roof(high, unit)] },
      },
      axes: [
        {
          ...axis,
          size: 30,
          gap: 9,
          space: 70,
          values: (_, splits, __, ___, step) => splits.map(clock(step)),
        },
        {
          ...axis,
          size: 56,
          space: 34,
          values: (_, splits) => splits.map((value) => figureText(value, unit)),
        },
      ],
      series: [
        {},
        ...names.map((name, index) => ({
          label: name,
          stroke: colorOf(this.#holder, COLORS[index]),
          width: 1.75,
          dash: DASHES[index],
          fill: names.length === 1 ? colorOf(this.#holder, "--line-fill") : undefined,
          points: { show: (plot, _, from, to) => to - from < 2 },
          spanGaps: false,
        })),
      ],
      hooks: { setCursor: [() => this.#read()], draw: [(plot) => this.#drawMarks(plot)] },
    };
  }

  /** 图例：指着哪里就读哪里的数，不指就是最后的。 */
  #read() {
    const { names, unit } = this.#spec;
    const pointed = this.#plot?.cursor.idx ?? null;
    const at = pointed === null ? null : this.#data[0][pointed];
    const parts = names.map((name, index) => {
      const column = this.#data[index + 1];
      const value = pointed === null ? lastKnown(column) : column[pointed];
      return element(
        "span",
        { className: `key key-${index + 1}` },
        element("i"),
        element("span", { textContent: say(`ops.figure.${name}`) }),
        element("b", { textContent: figureText(value, unit) }),
      );
    });
    const when = at === null ? [] : [element("time", { textContent: moment.format(at) })];
    this.#readout.replaceChildren(...parts, ...when);
  }

  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colorOf(this.#holder, "--danger");
    ctx.setLineDash([4, 4]);
    for (const at of this.#spec.marks) {
      if (at < this.#range[0] || at > this.#range[1]) continue;
      const x = plot.valToPos(at, "x", true);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }
}

/** 画布只认算好的颜色：`light-dark()` 由浏览器算。 */
function colorOf(node, name) {
  node.style.color = `var(${name})`;
  const found = getComputedStyle(node).color;
  node.style.color = "";
  return found;
}

/** 都是零时也有一格高；比例不画过 100 %。 */
function roof(high, unit) {
  if (!(high > 0)) return unit === "ratio" ? 0.1 : 1;
  return unit === "ratio" ? Math.min(Math.max(high * 1.15, 0.1), Math.max(1.04, high)) : high * 1.15;
}

function clock(stepMs) {
  const format = stepMs < 60_000 ? exact : stepMs < 86_400_000 ? hours : days;
  return (at) => format.format(at);
}

function lastKnown(column) {
  for (let index = column.length - 1; index >= 0; index -= 1) {
    if (column[index] !== null && column[index] !== undefined) return column[index];
  }
  return null;
}

/**
 * 历史接上实时的点：历史到第一个实时的点为止。`answer` 为 null（这里没有历史）就只有实时的。
 * `recent` 为空就只有历史。
 */
export function joined(answer, recent, names, since, until) {
  const live = recent.filter(({ at }) => at >= since && at <= until);
  if (answer === null && live.length > 1) since = live[0].at;
  const firstLive = live[0]?.at ?? Infinity;
  const past = (answer?.at ?? []).flatMap((at, index) => (at >= since && at < firstLive ? [index] : []));
  const known = (index) => names.some((name) => (answer.figures[name]?.[index] ?? null) !== null);
  // 这一分钟的还没有记：不让线在接缝处断开；再长就是真的没有
  const end = past.findLastIndex(known) + 1;
  if (past.length - end <= LATE_ROWS) past.length = end;
  const columns = {};
  for (const name of names) {
    const kept = answer?.figures[name];
    columns[name] = [
      ...past.map((index) => kept?.[index] ?? null),
      ...live.map(({ figures }) => figures[name] ?? null),
    ];
  }
  const at = [...past.map((index) => answer.at[index]), ...live.map((point) => point.at)];
  return { at, columns, since, until };
}
