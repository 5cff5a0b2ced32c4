"""The laws behind an answer as lines to draw: lr against N, D or B at the target's other two."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from hpt.reports.gather import Found
from hpt.reports.numbers import short
from scaling.hypotheses import Choice, Point, choose
from search.records import point
from search.transfer.belief import Belief
from search.transfer.settings import TransferSettings
from trainer.architecture.counts import flops_per_token, parameters

Axis = Literal["N", "D", "B"]
GRID = 25
Z90 = 1.645


@dataclass(frozen=True)
class Law:
    """One line; `band` is one sd either way."""

    name: str
    line: list[tuple[float, float]]
    band: list[tuple[float, float, float]]
    used: bool


def laws(found: Found, axis: Axis, low: float, high: float) -> list[Law]:
    """What the answer was carried by and the hypotheses it was chosen from; empty where nothing was fitted."""
    xs = np.geomspace(low / 1.2, high * 1.2, GRID)
    carried = found.answer.get("law", "")
    if carried.startswith("batch-conditional"):
        return [_batch_law(found, axis, xs)]
    if f" in {axis}:" in carried or (carried.startswith("none:") and axis != "B"):
        return _hypotheses(found, axis, xs, carried.split(":")[0])
    return []


def _batch_law(found: Found, axis: Axis, xs: np.ndarray) -> Law:
    belief = Belief(TransferSettings(), found.history)
    at = np.tile(np.zeros(3), (len(xs), 1))
    column = "NDB".index(axis)
    at[:, column] = np.log(xs) - np.array(point(found.target))[column]
    guesses = [belief.posterior.predict(*row) for row in at]
    return _law("the law, at the target's other two", xs, guesses, True)


def choice(found: Found, axis: Axis, at: float | None = None) -> Choice:
    """Every hypothesis fitted anew, as `search.evidence.law` does. at: another N or D than the target's."""
    points = [
        Point(
            N=c.n_non_embedding,
            D=c.horizon,
            C=flops_per_token(c.run.model, c.run.predicted) * c.horizon,
            log_lr=o.log_lr,
            sd=o.sd,
            edge=o.edge,
        )
        for c in found.cells
        if (o := c.optimum()) is not None
    ]
    model = found.target.model
    goal = Point(
        N=parameters(model).non_embedding,
        D=found.target.tokens,
        C=flops_per_token(model, found.target.predicted) * found.target.tokens,
    )
    return choose(points, goal if at is None else replace(goal, **{axis: at}), (axis,))


def _hypotheses(found: Found, axis: Axis, xs: np.ndarray, used: str) -> list[Law]:
    guesses: dict[str, list[tuple[float, float]]] = {}
    for i, x in enumerate(xs):
        for fit in choice(found, axis, float(x)).all:
            guesses.setdefault(fit.name, [(math.nan, 0.0)] * len(xs))[i] = fit.log_lr, fit.sd
    made = [_law(name, xs, values, name == used) for name, values in guesses.items()]
    return sorted(made, key=lambda law: law.used)


def _law(name: str, xs: np.ndarray, guesses: list[tuple[float, float]], used: bool) -> Law:
    good = [(float(x), m, s) for x, (m, s) in zip(xs, guesses, strict=True) if math.isfinite(m)]
    line = [(x, math.exp(m)) for x, m, _ in good]
    band = [(x, math.exp(m - s), math.exp(m + s)) for x, m, s in good if math.isfinite(s)]
    return Law(name, line, band, used)


def fit_rows(found: Found) -> list[dict[str, Any]]:
    """A row a cell; lrs in the cell's order of sizes and tokens."""
    rows = []
    for cell in found.cells:
        o = cell.optimum()
        row: dict[str, Any] = {
            "parameters": short(cell.n_non_embedding),
            "tokens": short(cell.horizon),
            "trials": len(cell.trials),
            "lowest loss": min(cell.losses, default=math.nan),
        }
        if o is not None:
            low, high = math.exp(o.log_lr - Z90 * o.sd), math.exp(o.log_lr + Z90 * o.sd)
            known = f"{low:.2g} to {high:.2g}" if o.edge is None else f"open: the {o.edge}est lr tried is the best"
            row |= {"best lr": math.exp(o.log_lr), "90 % interval": known}
        rows.append(row)
    return rows


def law_rows(found: Found, axis: Axis) -> list[dict[str, Any]]:
    """A row a hypothesis, the best first: factors of one sd, and of its misses where each optimum is left out."""
    made = choice(found, axis)
    refused, chosen = dict(made.refused), made.chosen and made.chosen.name
    return [
        {
            "law": fit.name,
            "lr at the target": _exp(fit.log_lr),
            "known to x": _exp(fit.sd),
            "misses by x": _exp(fit.loo),
            "verdict": "chosen" if fit.name == chosen else refused.get(fit.name, "another foretells better"),
        }
        for fit in made.all
    ]


def _exp(value: float) -> float:
    return math.exp(min(value, 20)) if math.isfinite(value) else math.nan
