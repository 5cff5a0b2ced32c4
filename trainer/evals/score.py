"""What an evaluator yields, and what scoring takes: words that need no model, and so no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainer.architecture.counts import flops_per_token
from trainer.config import RunConfig

LIMIT = 200
"""Items of each task, where nobody says how many: a trial's score is a look, not a result."""
LEADING = ("acc_norm", "acc", "perplexity", "loss")
"""Which score of a task stands for it in a table: the first that it has."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one task."""

    name: str
    """Such as acc, acc_norm, perplexity, loss; `acc/island_effects` for a part of a task."""
    value: float
    standard_error: float | None
    """Of the value over the items; None for a single item."""
    count: int
    """Items."""


def mean_score(name: str, values: np.ndarray) -> Score:
    """The mean of one number an item, and its standard error (sample deviation / sqrt(n))."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(name=name, value=float(np.mean(values)), standard_error=error, count=len(values))


@dataclass(frozen=True)
class Reading:
    """What scoring a model takes."""

    tokens: int
    """That it reads, once or (masked) again and again."""
    share: float
    """Of them, whose features go through the output head."""

    def flops(self, run: RunConfig) -> float:
        """Forward only."""
        return flops_per_token(run.model, self.share) / 3 * self.tokens


def leading(scores: Mapping[str, float]) -> dict[str, float]:
    """One score a task, by TASK."""
    found = dict[str, float]()
    for task in dict.fromkeys(name.partition("/")[0] for name in scores):
        found |= next(({task: scores[f"{task}/{name}"]} for name in LEADING if f"{task}/{name}" in scores), {})
    return found
