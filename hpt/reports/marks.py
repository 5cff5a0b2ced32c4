"""What a chart is made of, as SVG: lines, dots, bars, bands, words, at places in px."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 44
COLOURS = 8  # c0 ... c7
Points = Sequence[tuple[float, float]]


def colour_of(colour: int | str) -> str:
    return f"var(--c{colour % COLOURS})" if isinstance(colour, int) else f"var(--{colour})"


def paint(colour: int | str, hollow: bool) -> str:
    shade = colour_of(colour)
    return f'fill="var(--bg)" stroke="{shade}" stroke-width="1.5"' if hollow else f'fill="{shade}"'


def swatch(x: float, colour: int | str, kind: str) -> str:
    if kind in ("line", "dash"):
        dash = ' stroke-dasharray="4 2"' if kind == "dash" else ""
        return f'<path d="M{x - 2} 0h13" stroke="{colour_of(colour)}" stroke-width="2"{dash}/>'
    return f'<circle cx="{x + 5}" r="4.5" {paint(colour, kind == "hollow")}/>'


def _line(points: Points, style: dict, _: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if style["dash"] else ""
    width = 1 if style["thin"] else 1.8
    return f'<polyline points="{path}" fill="none" stroke="{colour_of(style["colour"])}" stroke-width="{width}"{dash}/>'


def _dots(points: Points, style: dict, bottom: float) -> str:
    """Those above or below the frame are triangles at its border, which point to where they are."""
    titles = [f' class="point"><title>{escape(t)}</title>' for t in style["titles"]] or [">"] * len(points)
    painted = paint(style["colour"], style["hollow"])
    out = list[str]()
    for (x, y), title in zip(points, titles, strict=True):
        if TOP <= y <= bottom:
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{style["r"]}" {painted}{title}</circle>')
        else:
            tip, way = (TOP + 2, 7) if y < TOP else (bottom - 2, -7)
            out.append(f'<path d="M{x:.1f} {tip}l5 {way}h-10z" {painted}{title}</path>')
    return "".join(out)


def _crosses(points: Points, style: dict, _: float) -> str:
    marks = "".join(f"M{x - 4:.1f} {TOP + 5}l8 8m0 -8l-8 8" for x, _ in points)
    return f'<path d="{marks}" stroke="{colour_of(style["colour"])}" stroke-width="2"/>'


def _band(points: Points, style: dict, bottom: float) -> str:
    (low, _), (high, _) = points
    return f'<rect class="band" x="{low:.1f}" y="{TOP}" width="{high - low:.1f}" height="{bottom - TOP}"/>'


def _vertical(points: Points, style: dict, bottom: float) -> str:
    x = points[0][0]
    wide, right = 8.2 * len(style["label"]), style["right"]  # it stays in the frame, on the side with more room
    start = min(x + 5, right - wide) if right - x > x - LEFT else max(LEFT + 3, x - 5 - wide)
    text = f'<text class="mark" x="{start:.1f}" y="{TOP + 26}">{escape(style["label"])}</text>'
    return f'<line class="answer" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>{text}'


def _words(points: Points, style: dict, _: float) -> str:
    placed = zip(points, style["texts"], strict=True)
    return "".join(f'<text x="{x + 6:.1f}" y="{y - 5:.1f}">{escape(text)}</text>' for (x, y), text in placed)


def _bars(points: Points, style: dict, _: float) -> str:
    marks = "".join(
        f"M{x:.1f} {low:.1f}V{high:.1f}" for (x, low), (_, high) in zip(points[::2], points[1::2], strict=True)
    )
    return f'<path d="{marks}" stroke="{colour_of(style["colour"])}" stroke-width="2" opacity=".6"/>'


Drawn = Callable[[Points, dict, float], str]
MARKS: dict[str, Drawn] = {
    "line": _line, "dots": _dots, "crosses": _crosses, "band": _band, "vertical": _vertical, "bars": _bars,
    "words": _words,
}  # fmt: skip
