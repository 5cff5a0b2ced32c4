"""What `hpt.compare` prints: a leaderboard for each table, and a page of their own for planted problems."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as Grid

from search.replay.summary import Line

Column = tuple[str, Callable[[Line], str]]
NARROW = 100  # columns of the screen below which the ones marked here are left out
WIDE_ONLY = ("grid", "p90", "x 50", "trials")


def leaderboard(lines: list[Line], console: Console) -> None:
    """For each table and budget; regret is in percent of the loss, of the searches that could be judged."""
    for table in dict.fromkeys(line.table for line in lines):
        mine = [line for line in lines if line.table == table]
        _print(mine, TABLE, f"{table}: {_targets(mine[0])}", console)
        for title, value in (
            ("refused", lambda x: x.refused),
            ("not judged: an lr outside those recorded", lambda x: x.unjudged),
        ):
            if some := [f"{x.strategy} {value(x):.0%} at {x.budget:g}" for x in mine if value(x)]:
                console.print(f"{title}: {', '.join(some)}")
    console.print(LEGEND)


def planted_page(lines: list[Line], console: Console) -> None:
    """Coverage and regret where there is an answer, refusals where there is none, and levels that are off."""
    by = {(x.table, x.budget, x.strategy): x for x in lines}
    main = [x for x in lines if x.table == "planted"]
    _print(main, [c for c in TABLE if c[0] != "grid"], f"planted problems: {main[0].searches}", console)

    def other(table: str, value: Callable[[Line], str]) -> Callable[[Line], str]:
        return lambda x: value(found) if (found := by.get((table, x.budget, x.strategy))) else "-"

    levels = [(f"level x{f}", other(f"planted, level x{f}", lambda y: _percent(y.mean))) for f in (1, 2, 4)]
    missed = [(f"{kind}", other(f"planted, {kind}", lambda y: _share(y.missed))) for kind in ("flat", "edge", "point")]
    columns: list[Column] = [TABLE[0], *levels, ("refused", lambda x: _share(x.refused)), *missed]
    title = "mean regret where lrs are usual, and off by 2 and 4; refused in vain; hopeless, and answered"
    _print(main, columns, title, console)
    console.print(LEGEND)


LEGEND = (
    "regret: median, % of the loss, by a smooth fit of the target's losses\n"
    "grid: the same against the lowest loss recorded\n"
    "in 50 %, in 90 %: share of targets whose best lr the interval holds, and\n"
    "  where that share may lie (binomial, 90 %)\n"
    "x: upper over lower end of an interval, median; cost: of one target run"
)


def _targets(line: Line) -> str:
    return f"{line.targets} target{'s' if line.targets > 1 else ''}, {line.searches} searches each"


def _print(lines: list[Line], columns: list[Column], title: str, console: Console) -> None:
    kept = [c for c in columns if console.width >= NARROW or c[0] not in WIDE_ONLY]
    grid = Grid(box=SIMPLE, padding=(0, 0), pad_edge=False, title=title, title_justify="left")
    for i, (name, _) in enumerate(kept):
        grid.add_column(name, justify="right" if i else "left", no_wrap=True)
    for i, line in enumerate(lines):
        if not i or line.budget != lines[i - 1].budget:
            grid.add_row(f"[bold]budget {line.budget:g} target runs")
        last = i + 1 == len(lines) or lines[i + 1].budget != line.budget
        grid.add_row(*(value(line) for _, value in kept), end_section=last)
    console.print(grid)


def _percent(value: float) -> str:
    return (
        "-"
        if math.isnan(value)
        else "diverged"
        if math.isinf(value)
        else f"{value:.3f}"
        if value < 10
        else f"{value:.0f}"
    )


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"


def _held(share: float, sure: tuple[float, float]) -> str:
    return "-" if math.isnan(share) else f"{share:.0%} {100 * sure[0]:.0f}-{100 * sure[1]:.0f}"


def _times(value: float) -> str:
    return "-" if math.isnan(value) else f"x{value:.1f}" if value < 100 else ">x100"


TABLE: list[Column] = [
    ("strategy", lambda x: x.strategy),
    ("regret", lambda x: _percent(x.median)),
    ("grid", lambda x: _percent(x.median_grid)),
    ("p90", lambda x: _percent(x.p90)),
    ("worst", lambda x: _percent(x.worst)),
    ("answered", lambda x: _share(x.answered)),
    ("in 50 %", lambda x: _held(x.inside50, x.inside50_range)),
    ("x 50", lambda x: _times(x.width50)),
    ("in 90 %", lambda x: _held(x.inside90, x.inside90_range)),
    ("x 90", lambda x: _times(x.width90)),
    ("trials", lambda x: f"{x.trials:.0f}"),
    ("cost", lambda x: f"{x.cost:.0%}"),
]
