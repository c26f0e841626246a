"""折线图，手写的 SVG：没有依赖，单独打开或嵌进页面都行。"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

Points = Sequence[tuple[float, float]]
COLORS: Final = ("#2563eb", "#d97706", "#dc2626", "#059669", "#7c3aed", "#0891b2", "#be185d")
_WIDTH, _HEIGHT = 720, 280
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 36, 44
_STYLE: Final = (
    "text{font:12px system-ui,sans-serif;fill:#555}.t{font-weight:600;font-size:14px;fill:#222}"
    ".g{stroke:#ddd;stroke-width:1}"
    "@media(prefers-color-scheme:dark){text{fill:#aaa}.t{fill:#eee}.g{stroke:#3a3a3a}}"
)


def line_chart(
    title: str, x_label: str, y_label: str, lines: Mapping[str, Points], *, log_y: bool = False
) -> str:
    """名字 → 点；没有点的线不画。``log_y``：纵轴取对数（不是正数的点不画）。"""
    heading = f"{title} ({y_label})" if y_label else title
    shown = {name: [p for p in points if p[1] > 0 or not log_y] for name, points in lines.items()}
    shown = {name: points for name, points in shown.items() if points}
    everything = [point for points in shown.values() for point in points] or [(0.0, 1.0)]
    x = _Axis([p[0] for p in everything], _LEFT, _WIDTH - _RIGHT)
    y = _Axis([p[1] for p in everything], _HEIGHT - _BOTTOM, _TOP, log=log_y, from_zero=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{escape(title)}"><style>{_STYLE}</style>',
        f'<text class="t" x="{_LEFT}" y="18">{escape(heading)}</text>',
        *_grid(x, y, x_label),
        *_lines(shown, x, y),
        "</svg>",
    ]
    return "".join(parts)


class _Axis:
    """值 → 像素；横轴与对数的从最小值起，其余从 0 起。"""

    def __init__(
        self,
        values: Sequence[float],
        start: float,
        end: float,
        *,
        log: bool = False,
        from_zero: bool = False,
    ) -> None:
        self._start, self._end, self._log = start, end, log
        self.low = min(0.0, *values) if from_zero and not log else min(values)
        self.high = max(values)
        if self.high <= self.low:
            self.high = self.low * 10 if log else self.low + 1

    def place(self, value: float) -> float:
        low, high, at = self.low, self.high, value
        if self._log:
            low, high, at = math.log10(low), math.log10(high), math.log10(at)
        return self._start + (at - low) / (high - low) * (self._end - self._start)

    def ticks(self) -> Iterator[float]:
        if self._log:
            for power in range(math.floor(math.log10(self.low)), 12):
                for digit in (1, 2, 5):
                    if self.low <= digit * 10.0**power <= self.high:
                        yield digit * 10.0**power
            return
        step = _round_step((self.high - self.low) / 5)
        tick = math.ceil(self.low / step) * step
        while tick <= self.high:
            yield tick
            tick += step


def _grid(x: _Axis, y: _Axis, x_label: str) -> Iterator[str]:
    bottom = _HEIGHT - _BOTTOM
    for tick in y.ticks():
        at = y.place(tick)
        yield f'<line class="g" x1="{_LEFT}" y1="{at:.1f}" x2="{_WIDTH - _RIGHT}" y2="{at:.1f}"/>'
        yield _text(_LEFT - 6, round(at + 4, 1), _short(tick))
    for tick in x.ticks():
        at = x.place(tick)
        yield f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{_short(tick)}</text>'
    yield f'<line class="g" x1="{_LEFT}" y1="{bottom}" x2="{_WIDTH - _RIGHT}" y2="{bottom}"/>'
    yield _text(_WIDTH - _RIGHT, _HEIGHT - 8, x_label)


def _lines(shown: Mapping[str, Points], x: _Axis, y: _Axis) -> Iterator[str]:
    legend = _WIDTH - _RIGHT
    for place, (name, points) in reversed(list(enumerate(shown.items()))):
        color = COLORS[place % len(COLORS)]
        path = " ".join(f"{x.place(a):.1f},{y.place(b):.1f}" for a, b in points)
        yield f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{path}"/>'
        yield _text(legend, 18, name, f' style="fill:{color}"')
        legend -= 8 * len(name) + 14


def _text(x: float, y: float, text: str, style: str = "") -> str:
    """右端在 x。"""
    return f'<text x="{x}" y="{y}" text-anchor="end"{style}>{escape(text)}</text>'


def _round_step(rough: float) -> float:
    """1、2、5 乘以十的幂里不小于它的。"""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= rough * 0.999)


def _short(value: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"
