"""What an evaluator yields."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


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
