"""One description of a chart, drawn as SVG: inline in a page, whose colours it follows, or in a file that stands alone.

No library in the page, no network.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

from hpt.reports.marks import BOTTOM, LEFT, MARKS, RIGHT, TOP, Points, swatch
from hpt.reports.numbers import written

LIGHT = {
    "bg": "#fff", "fg": "#1c2430", "soft": "#5b6675", "rule": "#dfe4ea", "panel": "#f6f8fa", "accent": "#c2410c",
    "bad": "#b91c1c", "faint": "#b9c2cc", "c0": "#3b6fb6", "c1": "#d9542b", "c2": "#2f8f4e", "c3": "#a8860a",
    "c4": "#8a4fb5", "c5": "#12869b", "c6": "#b8407f", "c7": "#6b7280",
}  # fmt: skip
DARK = {
    "bg": "#14181e", "fg": "#e4e8ee", "soft": "#9aa5b3", "rule": "#2c343f", "panel": "#1c222b", "accent": "#fb923c",
    "bad": "#f87171", "faint": "#475160", "c0": "#7aa9e6", "c1": "#f08a63", "c2": "#66c489", "c3": "#d9bb4a",
    "c4": "#bd8fe0", "c5": "#5cc3d6", "c6": "#e584b4", "c7": "#a3adba",
}  # fmt: skip
STYLE = """
svg text{fill:var(--soft);font:12px system-ui,sans-serif}svg .label{fill:var(--fg);font-size:13px}
.frame{fill:none;stroke:var(--rule)}
svg .mark{fill:var(--accent);font-weight:600;paint-order:stroke;stroke:var(--bg);stroke-width:4px}
.grid{stroke:var(--rule);stroke-width:.6}.band{fill:var(--accent);opacity:.1}
line.answer{stroke:var(--accent);stroke-width:1.6;stroke-dasharray:6 3}
"""
TICK = 52  # px that a number below the frame takes
KEY_LINE = 18  # px: a line of the legend in a file

Range = tuple[float, float]
Place = Callable[[float], float]
"""px of a value."""


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """1, 2 and 5 times powers of ten, or as many fewer as must be for no more than `most`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = list[float]()
    for steps, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        ticks = [s * 10.0**d for d in range(first - first % stride, last + 1, stride) for s in steps]
        found = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(found) <= most:
            break
    return found


def even_ticks(low: float, high: float, about: int = 5) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / about or 1))
    step *= min((1, 2, 5, 10), key=lambda s: abs((high - low) / (s * step) - about))
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass
class Chart:
    """Marks are clipped to the frame; ranges come from what is drawn unless given."""

    x_label: str
    y_label: str
    title: str = ""
    x_log: bool = True
    y_log: bool = False
    width: int = 640
    height: int = 340
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    y_hidden: bool = False
    _marks: list[tuple[str, Points, dict]] = field(default_factory=list)
    legend: list[tuple[str, int | str, str]] = field(default_factory=list)
    """(text, colour, what it looks like: dot, hollow, line or dash)."""

    def line(self, points: Points, colour: int | str, label: str = "", dash: bool = False, thin: bool = False) -> None:
        self._marks.append(("line", points, {"colour": colour, "dash": dash, "thin": thin}))
        self._name(label, colour, "dash" if dash else "line")

    def dots(
        self,
        points: Points,
        colour: int | str,
        titles: Sequence[str] = (),
        label: str = "",
        r: float = 3.5,
        hollow: bool = False,
    ) -> None:
        self._marks.append(("dots", points, {"colour": colour, "titles": titles, "r": r, "hollow": hollow}))
        self._name(label, colour, "hollow" if hollow else "dot")

    def crosses(self, xs: Sequence[float], label: str) -> None:
        """At the upper edge: what diverged has no height."""
        self._marks.append(("crosses", [(x, math.nan) for x in xs], {"colour": "bad"}))
        self._name(label, "bad", "dot")

    def words(self, points: Points, texts: Sequence[str]) -> None:
        """To the right of each point, a little above it."""
        self._marks.append(("words", points, {"texts": texts}))

    def band(self, low: float, high: float) -> None:
        self._marks.append(("band", [(low, math.nan), (high, math.nan)], {}))

    def vertical(self, x: float, label: str) -> None:
        self._marks.append(("vertical", [(x, math.nan)], {"label": label}))

    def bars(self, points: Sequence[tuple[float, float, float]], colour: int | str) -> None:
        """(x, low, high): intervals."""
        self._marks.append(("bars", [(x, v) for x, low, high in points for v in (low, high)], {"colour": colour}))

    def _name(self, label: str, colour: int | str, kind: str) -> None:
        if label and (label, colour, kind) not in self.legend:
            self.legend.append((label, colour, kind))

    def _limits(self, axis: int, log: bool, given: tuple[float, float] | None) -> tuple[float, float]:
        if given is not None:
            return given
        values = [p[axis] for _, points, _ in self._marks for p in points if math.isfinite(p[axis])]
        low, high = (min(values), max(values)) if values else (1.0, 2.0)
        if log:
            pad = max((high / low) ** 0.06, 1.15)
            return low / pad, high * pad
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        return low - pad, high + pad

    def drawing(self) -> str:
        """SVG of `width` x `height`, without its title and legend."""
        x_range, y_range = self._limits(0, self.x_log, self.x_range), self._limits(1, self.y_log, self.y_range)
        right, bottom = self.width - RIGHT, self.height - BOTTOM

        def place(value: float, limits: tuple[float, float], log: bool) -> float:
            low, high, value = (math.log(v) if log else v for v in (*limits, value))
            return (value - low) / (high - low)

        def px(x: float) -> float:
            return LEFT + place(x, x_range, self.x_log) * (right - LEFT)

        def py(y: float) -> float:
            return bottom - place(y, y_range, self.y_log) * (bottom - TOP)

        out = [self._frame(px, py, x_range, y_range, right, bottom)]
        clip = f"clip{zlib.crc32(repr((self.title, self.width, self._marks)).encode())}"
        window = f'<rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/>'
        out.append(f'<clipPath id="{clip}">{window}</clipPath>')
        out.append(f'<g clip-path="url(#{clip})">')
        for kind, points, style in self._marks:
            placed = [(px(x), py(y) if math.isfinite(y) else TOP) for x, y in points]
            out.append(MARKS[kind](placed, {**style, "right": right}, bottom))
        out.append("</g>")
        return "".join(out)

    def _frame(self, px: Place, py: Place, x_range: Range, y_range: Range, right: int, bottom: int) -> str:
        out = [f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/>']
        most = max(2, round((right - LEFT) / TICK))
        for x in log_ticks(*x_range, most) if self.x_log else even_ticks(*x_range, min(5, most)):
            out.append(f'<line class="grid" x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{TOP}" y2="{bottom}"/>')
            out.append(f'<text x="{px(x):.1f}" y="{bottom + 16}" text-anchor="middle">{written(x)}</text>')
        rows = () if self.y_hidden else log_ticks(*y_range) if self.y_log else even_ticks(*y_range)
        for y in rows:
            out.append(f'<line class="grid" y1="{py(y):.1f}" y2="{py(y):.1f}" x1="{LEFT}" x2="{right}"/>')
            out.append(f'<text x="{LEFT - 7}" y="{py(y) + 4:.1f}" text-anchor="end">{written(round(y, 9))}</text>')
        label, middle, below = 'class="label" text-anchor="middle"', (TOP + bottom) / 2, self.height - 8
        out.append(f'<text {label} x="{(LEFT + right) / 2}" y="{below}">{escape(self.x_label)}</text>')
        out.append(f'<text {label} transform="translate(14 {middle}) rotate(-90)">{escape(self.y_label)}</text>')
        return "".join(out)

    def _legend_lines(self) -> list[list[tuple[int, str, str]]]:
        """(x, text, its mark) of each entry, by line of a file's legend."""
        lines: list[list[tuple[int, str, str]]] = []
        x = self.width
        for text, colour, kind in self.legend:
            wide = 30 + round(6.3 * len(text))
            if x + wide > self.width:
                lines.append([])
                x = LEFT
            lines[-1].append((x, text, swatch(x, colour, kind)))
            x += wide
        return lines

    def framed(self) -> tuple[str, int]:
        """The title, the drawing and the legend as SVG, and their height, for a file."""
        out = [f'<text class="label" x="{LEFT}" y="16">{escape(self.title)}</text>']
        out.append(f'<g transform="translate(0 16)">{self.drawing()}</g>')
        lines = self._legend_lines()
        for row, line in enumerate(lines):
            y = self.height + 16 + (row + 1) * KEY_LINE - 5
            for x, text, mark in line:
                out.append(f'<g transform="translate(0 {y - 4})">{mark}</g>')
                out.append(f'<text x="{x + 14}" y="{y}">{escape(text)}</text>')
        return "".join(out), self.height + 16 + KEY_LINE * len(lines) + 6


def picture(charts: Sequence[Chart], columns: int = 1) -> bytes:
    """An SVG file that stands alone, in the light colours: charts side by side, then one below the other."""
    out, y, width = [], 0, 0
    for i in range(0, len(charts), columns):
        row, x, high = charts[i : i + columns], 0, 0
        for chart in row:
            drawn, height = chart.framed()
            out.append(f'<g transform="translate({x} {y})">{drawn}</g>')
            x, high = x + chart.width, max(high, height)
        y, width = y + high, max(width, x)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}">'
    drawn = f'<style>{STYLE}</style><rect width="{width}" height="{y}" fill="var(--bg)"/>{"".join(out)}</svg>'
    return (head + re.sub(r"var\(--(\w+)\)", lambda name: LIGHT[name[1]], drawn)).encode()
