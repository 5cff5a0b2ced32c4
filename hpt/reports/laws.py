"""The laws behind an answer as lines to draw: lr against N, D or B at the target's other two."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hpt.reports.gather import Found
from scaling.hypotheses import Point, choose
from search.records import point
from search.transfer.belief import Belief
from search.transfer.settings import TransferSettings
from trainer.architecture.counts import flops_per_token, parameters

Axis = Literal["N", "D", "B"]
GRID = 25


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
    if f" in {axis}:" in carried:
        return _hypotheses(found, axis, xs, carried.split(":")[0])
    return []


def _batch_law(found: Found, axis: Axis, xs: np.ndarray) -> Law:
    belief = Belief(TransferSettings(), found.history)
    at = np.tile(np.zeros(3), (len(xs), 1))
    column = "NDB".index(axis)
    at[:, column] = np.log(xs) - np.array(point(found.target))[column]
    guesses = [belief.posterior.predict(*row) for row in at]
    return _law("the law, at the target's other two", xs, guesses, True)


def _hypotheses(found: Found, axis: Axis, xs: np.ndarray, used: str) -> list[Law]:
    """Every hypothesis fitted anew, as `search.evidence.law` does."""
    optima = [(c, o) for c in found.cells if (o := c.optimum()) is not None]
    points = [
        Point(
            N=c.n_non_embedding,
            D=c.horizon,
            C=flops_per_token(c.run.model, c.run.predicted) * c.horizon,
            log_lr=o.log_lr,
            sd=o.sd,
            edge=o.edge,
        )
        for c, o in optima
    ]
    model = found.target.model
    goal = Point(
        N=parameters(model).non_embedding,
        D=found.target.tokens,
        C=flops_per_token(model, found.target.predicted) * found.target.tokens,
    )
    guesses: dict[str, list[tuple[float, float]]] = {}
    for i, x in enumerate(xs):
        for fit in choose(points, replace(goal, **{axis: float(x)}), (axis,)).all:
            guesses.setdefault(fit.name, [(math.nan, 0.0)] * len(xs))[i] = fit.log_lr, fit.sd
    made = [_law(name, xs, values, name == used) for name, values in guesses.items()]
    return sorted(made, key=lambda law: law.used)


def _law(name: str, xs: np.ndarray, guesses: list[tuple[float, float]], used: bool) -> Law:
    good = [(float(x), m, s) for x, (m, s) in zip(xs, guesses, strict=True) if math.isfinite(m)]
    line = [(x, math.exp(m)) for x, m, _ in good]
    band = [(x, math.exp(m - s), math.exp(m + s)) for x, m, s in good if math.isfinite(s)]
    return Law(name, line, band, used)
