"""Answers beside the truth: a grid of whole runs at the target, which no search has seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpt.reports.chart import Chart, picture
from hpt.reports.gather import Found
from search.records import Recommendation
from trainer.files import write_atomic

MOST = 25.0
"""Per cent of regret that are drawn."""
NAMED = 6
"""Targets, up to which laws are named beside their dots; else by pointing at them."""
WITHIN = 1.01
"""Of the lowest loss: what a learning rate that is good enough may lose."""


@dataclass(frozen=True)
class Picture:
    """An SVG; a notebook shows it."""

    svg: str = field(repr=False)

    @staticmethod
    def of(chart: Chart) -> Picture:
        return Picture(picture([chart]).decode())

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | Path) -> None:
        write_atomic(Path(path), self.svg.encode())


class Truth(Protocol):
    """Loss (nats) by ln lr, between `low` and `high`; `best` is where it is lowest."""

    @property
    def best(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    def __call__(self, log_lr: float) -> float: ...


def points(truth: Truth) -> list[tuple[float, float]]:
    """(lr, loss) to draw."""
    return [(math.exp(x), truth(x)) for x in np.linspace(truth.low, truth.high, 200).tolist()]


def beside(chart: Chart, what: str, truth: Truth, found: Found) -> None:
    """Draw the truth into a chart of `search_charts` called `what`: its valley, or its best lr at the target."""
    if what == "u_curves":
        low, high = chart.y_range or (math.inf, -math.inf)
        chart.line(points(truth), "bad", "the target itself, by a grid")
        chart.y_range = (min(low, truth(truth.best) - 0.05 * (high - low)), high)
    elif what.startswith("best_lr_by_"):
        run = found.target
        at = {"N": found.n_target, "D": run.tokens, "B": run.batch}[what[-1]]
        chart.dots([(at, math.exp(truth.best))], "bad", ["best by the grid"], "best by the grid", r=6, hollow=True)


def valleys(truths: Mapping[str, Truth], marks: Mapping[str, Sequence[tuple[str, float]]]) -> Chart:
    """What lrs give up against the best one, in per cent of its loss, a line a target. marks: by target, (who says it,
    lr) of rules to be judged, of which those inside the grid are drawn, and named where there is room."""
    chart = Chart("peak learning rate", "regret (% of the lowest loss)", y_range=(-0.7, MOST), height=380)
    for i, (name, truth) in enumerate(truths.items()):

        def regret(lr: float, truth: Truth = truth) -> float:
            return 100 * (truth(math.log(lr)) / truth(truth.best) - 1)

        chart.line([(lr, regret(lr)) for lr, _ in points(truth)], i, f"{name}: best {math.exp(truth.best):.1e}")
        inside = [(who, lr) for who, lr in marks[name] if truth.low <= math.log(lr) <= truth.high]
        said = [(who, lr) for who, lr in inside if regret(lr) < MOST]
        chart.dots([(lr, regret(lr)) for _, lr in said], i, [f"{who}: {lr:.2g}" for who, lr in said], r=5)
        if len(truths) <= NAMED:
            chart.words([(lr, regret(lr)) for _, lr in said], [who for who, _ in said])
    chart.title = "What a wrong learning rate costs; dots: published laws"
    return chart


def answers(given: Mapping[str, Recommendation | float], truth: Truth) -> Chart:
    """A row for each; shaded: where a run loses at most 1 % to the best one."""
    chart = Chart("learning rate", "", height=60 + 34 * len(given), y_range=(len(given) + 0.4, 0.2), y_hidden=True)
    good = [lr for lr, loss in points(truth) if loss < WITHIN * truth(truth.best)]
    chart.band(min(good), max(good))
    chart.vertical(math.exp(truth.best), "")
    rows = [_said(answer) for answer in given.values()]
    lrs = [lr for middle, _, most in rows for lr in (middle, *most)]
    chart.x_range = (min(lrs) / 1.5, max(lrs) * 1.5)
    for y, (who, (lr, half, most)) in enumerate(zip(given, rows, strict=True), start=1):
        colour = "faint" if not most else 2 if most[0] <= math.exp(truth.best) <= most[1] else 1
        chart.line([(x, y) for x in most], colour, thin=True)
        chart.line([(x, y) for x in half], colour)
        chart.dots([(lr, y)], colour, [f"{who}: {lr:.2g}"], r=4.5)
        chart.words([(chart.x_range[0], y - 0.2)], [who])
    chart.legend = [("its 90 % interval holds the best", 2, "line"), ("it does not", 1, "line"),
                    ("no interval given", "faint", "dot")]  # fmt: skip
    chart.title = "Dashed: best by the grid; shaded: within 1 % of its loss; thick: 50 % interval, thin: 90 %"
    return chart


Pair = tuple[float, float] | tuple[()]


def _said(answer: Recommendation | float) -> tuple[float, Pair, Pair]:
    """lr, 50 % and 90 % interval; a number alone gives none."""
    if not isinstance(answer, Recommendation):
        return answer, (), ()
    return answer.lr or math.nan, answer.interval50 or (), answer.interval90 or ()


def judged_rows(given: Mapping[str, Recommendation | float], truth: Truth) -> list[dict[str, Any]]:
    rows = []
    for who, answer in given.items():
        lr, _, most = _said(answer)
        inside = truth.low <= math.log(lr) <= truth.high
        rows.append({
            "answer": who, "lr": lr,
            "regret %": 100 * (truth(math.log(lr)) / truth(truth.best) - 1) if inside else math.nan,
            "90 % interval": f"{most[0]:.2g} to {most[1]:.2g}" if most else "",
            "holds the best": ("yes" if most[0] <= math.exp(truth.best) <= most[1] else "no") if most else "",
        })  # fmt: skip
    return rows


def frame(rows: Sequence[Mapping[str, Any]]) -> Any:
    """A pandas DataFrame with its first column as the index, floats at three digits when shown."""
    import pandas

    made = pandas.DataFrame(rows)
    return made.set_index(made.columns[0]) if len(made) else made


@dataclass(frozen=True)
class Judged:
    """Answers beside the truth."""

    answers: Mapping[str, Recommendation | float]
    truth: Truth

    @cached_property
    def table(self) -> Any:
        """A pandas DataFrame: lr, regret in per cent of the lowest loss, whether the 90 % interval holds the best."""
        return frame(judged_rows(self.answers, self.truth))

    def plot(self) -> Picture:
        """Each answer with its intervals; shaded: where a run loses at most 1 %."""
        return Picture.of(answers(self.answers, self.truth))
