"""A search judged: what it recommended at a target whose best lr is known, and what it gave up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from search.records import History, Problem, Recommendation
from search.replay.contenders import Contender, Needs, contender, searching_batch
from search.replay.problems import Holdout
from search.replay.truth import Truth
from search.replay.world import Answers, replay
from search.strategy import Strategy
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What every contender is given alike."""

    holdout: Holdout | None = None
    """What may be run: `size`, models smaller than the target; `run`, also its own size on fewer tokens; `target`, its
    own size and itself, all that a sweep of a single cell has. None: size on a table; on planted problems, any run."""
    batch: Literal["best", "all"] = "best"
    """At which batch each target (N, D) is posed: the one where the table finds its lowest loss, or
    every one in turn."""
    search: Literal["lr", "lr,batch"] = "lr"
    """`lr,batch`: the batch is sought too, by those who can, and regret is against the best of
    both."""
    sizes: int = 1
    """The targets are the cells of this many of the largest sizes."""
    slots: int = 4
    """Trials running at a time."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One search, judged: a line of runs.csv. NaN: there is none."""

    table: str
    N: int
    D: int
    B: int
    strategy: str
    budget: float
    """Target runs, in FLOPs."""
    seed: int
    lr: float
    batch: int
    low50: float
    high50: float
    low90: float
    high90: float
    best_lr: float
    """By the smooth truth."""
    best_lr_grid: float
    regret: float
    """Percent of the lowest loss of the target, by the smooth truth; NaN too where the answer is not judged."""
    regret_grid: float
    """The same against the lowest loss recorded."""
    judged: bool
    """False: no answer, or one outside the target's recorded lrs, where nothing is known."""
    outcome: Literal["answered", "refused", "unable"]
    """unable: no answer and not one trial, for this budget or these proxies do not allow it."""
    trials: int
    cost: float
    """Share of the target's FLOPs that was spent."""
    reasons: str
    hopeless: str = ""
    """Why nobody could answer, on a planted problem of that kind; empty: somebody could."""

    @property
    def inside50(self) -> float:
        """1: the interval holds the best lr; NaN: no interval."""
        return self._inside(self.low50, self.high50)

    @property
    def inside90(self) -> float:
        return self._inside(self.low90, self.high90)

    @property
    def missed(self) -> float:
        """1: an answer that should have been a refusal; NaN: there was something to answer. Where all lrs were far from
        the best, one who says where it lies is right; where there is no best lr, nobody is."""
        if not self.hopeless:
            return math.nan
        return float(self.outcome == "answered" and (self.hopeless != "edge" or self.inside90 != 1))

    def _inside(self, low: float, high: float) -> float:
        return math.nan if math.isnan(low + high) else float(low <= self.best_lr <= high)


class Case(Protocol):
    """A target with its truth, and the world that strategies search in."""

    @property
    def table(self) -> str: ...
    @property
    def key(self) -> tuple[int, int, int]: ...
    @property
    def target(self) -> RunConfig: ...
    @property
    def truth(self) -> Truth: ...
    @property
    def serves(self) -> tuple[Needs, ...]: ...
    @property
    def hopeless(self) -> str: ...
    @property
    def first(self) -> float:
        """Share of a run from which the world tells the loss of one cut short."""
        ...

    def pose(self, who: Contender, share: float, seed: int) -> tuple[Problem, Answers]: ...


def judge(case: Case, name: str, budget: float, seeds: Iterable[int], rules: Rules) -> list[Result]:
    """Run one strategy on one target and budget, once for each seed."""
    made, results = contender(name), []
    for seed in seeds:
        problem, world = case.pose(made, budget, seed)
        history, answer, outcome = _search(lambda p: made.make(p, case.first), problem, world, rules)
        results.append(_result(case, history, answer, outcome, strategy=name, budget=budget, seed=seed))
    return results


def _result(case: Case, history: History, answer: Recommendation, outcome: str, **known) -> Result:
    n, d, b = case.key
    regret, regret_grid = case.truth.regret(answer.lr, answer.batch or b) if answer.lr else (math.nan, math.nan)
    low50, high50 = answer.interval50 or (math.nan, math.nan)
    low90, high90 = answer.interval90 or (math.nan, math.nan)
    return Result(
        table=case.table, N=n, D=d, B=b,
        lr=answer.lr or math.nan, batch=answer.batch or b,
        low50=low50, high50=high50, low90=low90, high90=high90,
        best_lr=case.truth.best, best_lr_grid=case.truth.best_grid,
        regret=regret, regret_grid=regret_grid, judged=not math.isnan(regret),
        outcome=outcome,  # type: ignore[arg-type]
        trials=len(history), cost=history.spent.flops / run_flops(case.target, case.target.tokens),
        reasons="; ".join(answer.reasons), hopeless=case.hopeless, **known,
    )  # fmt: skip


def _search(
    make: Callable[[Problem], Strategy], problem: Problem, world: Answers, rules: Rules
) -> tuple[History, Recommendation, str]:
    """Its trials and its answer; a strategy that cannot work with the budget says so, and has none."""
    try:
        strategy: Strategy = make(problem)
        if rules.search == "lr,batch":
            strategy = searching_batch(strategy)
        history = replay(strategy, problem, world, rules.slots)
        answer = strategy.recommend(history)
    except UserError as error:
        return History(problem=problem), Recommendation(lr=None, reasons=(str(error),)), "unable"
    if answer.lr is None:
        return history, answer, "refused" if len(history) else "unable"
    return history, answer, "answered"
