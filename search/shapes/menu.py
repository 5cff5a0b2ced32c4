"""The menu of a problem: the nearest of its proxies to the run that a strategy wants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from search.records import Problem, point
from trainer.config import RunConfig


def nearest(problem: Problem, wanted: RunConfig) -> RunConfig:
    """`wanted` itself where the choice is free, else the menu's nearest run; its lr is kept.

    Nearest in ln N first, then in ln D, then in ln B: a strategy that scales one of them must not
    be given another size because the batch fits better.
    """
    if problem.proxies is None:
        return wanted
    at, points = point(wanted), problem.menu
    kept = np.arange(len(points))
    for axis in range(3):
        gaps = np.abs(points[kept, axis] - at[axis])
        kept = kept[gaps <= gaps.min() + 1e-9]
    return replace(problem.proxies[kept[0]], lr=wanted.lr)
