/** 数与时间怎样写：单位写明，太大的缩写，没有的写“—”。 */

import { locale, say } from "../words.js";

export const NONE = "—";

const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const fine = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const percent = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 1 });
const moment = new Intl.DateTimeFormat(locale, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

/** `unit`：count · per_s · ms · ratio。 */
export function figureText(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  switch (unit) {
    case "ms":
      return durationText(value);
    case "ratio":
      return percent.format(value);
    case "per_s":
      return say("ops.per_s", { value: value >= 10_000 ? short.format(value) : fine.format(value) });
    default:
      return Math.abs(value) >= 100_000 ? short.format(value) : fine.format(value);
  }
}

export const countText = (value) => (value === null || value === undefined ? NONE : whole.format(value));

/** 毫秒写成人看的：12 ms、3.4 s、5 min、2 h、3 d。 */
export function durationText(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms < 1_000) return `${fine.format(ms)} ms`;
  if (ms < 120_000) return say("ops.s", { value: fine.format(ms / 1_000) });
  if (ms < 3_600_000) return say("ops.min", { value: fine.format(ms / 60_000) });
  if (ms < 172_800_000) return say("ops.h", { value: fine.format(ms / 3_600_000) });
  return say("ops.d", { value: fine.format(ms / 86_400_000) });
}

/** 单位在别处说的一个数。 */
export const numberText = (value) => String(Math.round(value * 1_000) / 1_000);

export const momentText = (ms) => (ms ? moment.format(ms) : NONE);

/** 离现在多久。 */
export const agoText = (ms) =>
  Date.now() - ms < 1_000
    ? say("ops.just.now")
    : ms
      ? say("ops.ago", { time: durationText(Math.max(0, Math.floor((Date.now() - ms) / 1_000)) * 1_000) })
      : NONE;

/** 告警的值：单位是规则的。 */
export function valueText(value, unit) {
  if (value === null || value === undefined) return NONE;
  if (unit === "ratio") return percent.format(value);
  if (unit === "seconds" || unit === "s") return durationText(value * 1_000);
  return fine.format(value);
}
