"""The menu of a problem: which proxy runs may be asked for, and the nearest to what a strategy
wants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from search.records import Problem
from trainer.config import RunConfig
from trainer.counts import parameters


def point(run: RunConfig) -> tuple[float, float, float]:
    """(ln N, ln D, ln B) of a run: non-embedding parameters, training tokens, tokens a step."""
    return math.log(parameters(run.model).non_embedding), math.log(run.tokens), math.log(run.batch)


def nearest(problem: Problem, wanted: RunConfig) -> RunConfig:
    """`wanted` itself where the choice is free, else the menu's nearest run; its lr is kept.

    Nearest in ln N first, then in ln D, then in ln B: a strategy that scales one of them must not
    be given another size because the batch fits better.
    """
    if problem.proxies is None:
        return wanted
    runs: Sequence[RunConfig] = problem.proxies
    at = point(wanted)
    for axis in range(3):
        gaps = [abs(point(run)[axis] - at[axis]) for run in runs]
        runs = [run for run, gap in zip(runs, gaps, strict=True) if gap <= min(gaps) + 1e-9]
    return replace(runs[0], lr=wanted.lr)
