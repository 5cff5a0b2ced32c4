"""Searches gathered into lines: regret, answers, and whether the intervals hold what they promise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search.replay.arena import Result

SURE = 0.9  # of the interval that is given with a coverage


@dataclass(frozen=True, kw_only=True)
class Line:
    """A strategy at a budget on a table, over targets and seeds. NaN: nothing to count."""

    table: str
    strategy: str
    budget: float
    targets: int
    """Independent ones: distinct (N, D). Seeds and batches of one are not."""
    searches: int
    answered: float
    """Share of searches that ended in a recommendation."""
    refused: float
    """Share that ended in a refusal; the rest could not work with what they were given."""
    missed: float
    """Where nobody could answer: the share that did, and whose 90 % interval, if any, does not hold the truth."""
    unjudged: float
    """Share that recommended an lr outside the target's recorded ones."""
    median: float
    """Regret, percent of the loss by the smooth truth, of those judged."""
    mean: float
    p90: float
    worst: float
    median_grid: float
    inside50: float
    """Share of targets whose best lr the 50 % interval holds (a target's share is that of its seeds)."""
    inside50_range: tuple[float, float]
    """Where that share may lie, by the number of targets: binomial, 90 % (Jeffreys)."""
    inside90: float
    inside90_range: tuple[float, float]
    width50: float
    """Median of upper end over lower end."""
    width90: float
    trials: float
    """Mean, of searches that could begin; 0: none could."""
    cost: float


def summarise(results: list[Result]) -> list[Line]:
    """By table in the order they came, by budget, then by median regret; those without an answer last."""
    groups: dict[tuple[str, float, str], list[Result]] = {}
    for r in results:
        groups.setdefault((r.table, r.budget, r.strategy), []).append(r)
    tables = list(dict.fromkeys(r.table for r in results))
    lines = [_line(group) for group in groups.values()]
    return sorted(lines, key=lambda x: (tables.index(x.table), x.budget, math.isnan(x.median), x.median))


def _line(group: list[Result]) -> Line:
    regrets = np.array([r.regret for r in group if r.judged])
    grid = [r.regret_grid for r in group if r.judged and not math.isnan(r.regret_grid)]
    inside50, range50 = coverage(group, lambda r: r.inside50)
    inside90, range90 = coverage(group, lambda r: r.inside90)
    answered = sum(r.outcome == "answered" for r in group)
    some = len(regrets) > 0
    return Line(
        table=group[0].table, strategy=group[0].strategy, budget=group[0].budget,
        targets=len({(r.N, r.D) for r in group}), searches=len(group),
        answered=answered / len(group),
        refused=sum(r.outcome == "refused" for r in group) / len(group),
        missed=float(np.mean([r.missed for r in group])),
        unjudged=(answered - len(regrets)) / len(group),
        median=float(np.median(regrets)) if some else math.nan,
        mean=float(np.mean(regrets)) if some else math.nan,
        p90=float(np.quantile(regrets, 0.9, method="higher")) if some else math.nan,
        worst=float(regrets.max()) if some else math.nan,
        median_grid=float(np.median(grid)) if grid else math.nan,
        inside50=inside50, inside50_range=range50, inside90=inside90, inside90_range=range90,
        width50=_median([r.high50 / r.low50 for r in group]),
        width90=_median([r.high90 / r.low90 for r in group]),
        trials=_mean([r.trials for r in group if r.outcome != "unable"]),
        cost=_mean([r.cost for r in group if r.outcome != "unable"]),
    )  # fmt: skip


def coverage(group: list[Result], inside: Callable[[Result], float]) -> tuple[float, tuple[float, float]]:
    """(share of targets held, its binomial interval); NaN where nobody gave an interval."""
    by_target: dict[tuple[int, int], list[float]] = {}
    for r in group:
        if not math.isnan(value := inside(r)):
            by_target.setdefault((r.N, r.D), []).append(value)
    if not by_target:
        return math.nan, (math.nan, math.nan)
    shares, n = [float(np.mean(values)) for values in by_target.values()], len(by_target)
    return float(np.mean(shares)), binomial(sum(shares), n)


def binomial(held: float, n: int) -> tuple[float, float]:
    """Jeffreys' interval of a share, `held` of `n` (which need not be whole: seeds of one target disagree)."""
    from scipy.stats import beta  # 0.7 s of import, that no --help needs

    tail = (1 - SURE) / 2
    low, high = beta.ppf([tail, 1 - tail], held + 0.5, n - held + 0.5)
    return (0.0 if held == 0 else float(low), 1.0 if held == n else float(high))


def _median(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.median(known)) if known else math.nan


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
