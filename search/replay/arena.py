"""A search judged: what it recommended at a target whose best lr is known, and what it gave up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

from search.records import History, Problem, Recommendation
from search.replay.contenders import Needs, Where, contender, searching_batch
from search.replay.planted import Planted
from search.replay.problems import Holdout, direct_problem, problem_for
from search.replay.table import Table
from search.replay.truth import Truth, Valley
from search.replay.world import Answers, World, replay
from search.shapes.ladder import size_of
from search.strategy import Strategy
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What every contender is given alike."""

    holdout: Holdout | None = None
    """What proxies may be: `size`, models smaller than the target; `run`, also its own size on
    fewer tokens. None: size on a table; on planted problems, whatever a search may run."""
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
    """unable: the strategy cannot work with this budget or these proxies, and says so before any trial."""
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
    def pose(self, where: Where, share: float, seed: int) -> tuple[Problem, Answers]: ...


@dataclass(frozen=True)
class TableCase:
    """A cell of a recorded sweep."""

    world: World
    target: RunConfig
    rules: Rules
    hopeless: str = ""

    @property
    def table(self) -> str:
        return self.world.table.name

    @property
    def key(self) -> tuple[int, int, int]:
        return self.world.key(self.target)

    @cached_property
    def truth(self) -> TableTruth:
        return TableTruth(self.world.table, self.key, self.rules.search == "lr,batch")

    @property
    def serves(self) -> tuple[Needs, ...]:
        return ("whole runs",)

    def pose(self, where: Where, share: float, seed: int) -> tuple[Problem, Answers]:
        world = replace(self.world, noise=self.world.sd, seed=seed)
        if where == "target":
            return direct_problem(world, self.target, share=share, seed=seed), world
        holdout = self.rules.holdout or "size"
        return problem_for(world, self.target, share=share, holdout=holdout, seed=seed), world


@dataclass(frozen=True)
class TableTruth:
    """The valleys of one (N, D), at the target's batch or at all."""

    table: Table
    key: tuple[int, int, int]
    joint: bool

    @cached_property
    def valleys(self) -> dict[int, Valley]:
        n, d, b = self.key
        return {v: self.table.valley(n, d, v) for v in (self.table.batches(n, d) if self.joint else [b])}

    @cached_property
    def _smooth(self) -> Valley:
        return min(self.valleys.values(), key=lambda v: v.lowest)

    @cached_property
    def _grid(self) -> Valley:
        return min(self.valleys.values(), key=lambda v: v.lowest_grid)

    @property
    def best(self) -> float:
        return math.exp(self._smooth.best)

    @property
    def best_grid(self) -> float:
        return math.exp(self._grid.centre)

    def regret(self, lr: float, batch: int) -> tuple[float, float]:
        known = sorted(self.valleys)
        if not known[0] <= batch <= known[-1]:
            return math.nan, math.nan
        low, high = max(v for v in known if v <= batch), min(v for v in known if v >= batch)
        share = 0.0 if low == high else math.log(batch / low) / math.log(high / low)
        x, found = math.log(lr), []
        for at, lowest in ((Valley.at, self._smooth.lowest), (Valley.at_grid, self._grid.lowest_grid)):
            left, right = at(self.valleys[low], x), at(self.valleys[high], x)
            loss = left if share == 0 else (1 - share) * left + share * right
            found.append(100 * (loss / lowest - 1))
        return found[0], found[1]


@dataclass(frozen=True)
class PlantedCase:
    """A planted problem."""

    table: str
    planted: Planted
    rules: Rules
    serves: tuple[Needs, ...] = ("whole runs", "curves", "any run")

    @property
    def hopeless(self) -> str:
        return "" if self.planted.kind == "valley" else self.planted.kind

    @property
    def key(self) -> tuple[int, int, int]:
        return size_of(self.target), self.target.tokens, self.target.batch

    @property
    def target(self) -> RunConfig:
        return self.planted.target

    @property
    def truth(self) -> Truth:
        return self.planted.truth(self.rules.search == "lr,batch")

    def pose(self, where: Where, share: float, seed: int) -> tuple[Problem, Answers]:
        world = replace(self.planted, seed=self.planted.seed + 1000 * seed)
        problem = world.problem(share, menu=self.rules.holdout == "size" and where == "proxies")
        return problem, world


def targets(world: World, rules: Rules) -> list[Case]:
    """The runs to be predicted, each with something smaller in the table."""
    table, found, holdout = world.table, [], rules.holdout or "size"
    largest = table.sizes[-rules.sizes :] if holdout == "run" else table.sizes[1:][-rules.sizes :]
    if not largest:
        raise UserError(
            f"{table.name} holds a single size, {table.sizes[0]:g}: use --holdout run, or a table with several."
        )
    for n, d in sorted({(n, d) for n, d, _ in table.cells if n in largest}):
        batches = table.batches(n, d)
        best = min(batches, key=lambda b: table.valley(n, d, b).lowest)
        runs = [world.configuration(n, d, b) for b in (batches if rules.batch == "all" else [best])]
        found += [TableCase(world, run, rules) for run in runs if _posed(world, run, holdout)]
    if not found:
        raise UserError(f"No target of {table.name} has a smaller run in it: use --holdout run, or fewer --sizes.")
    return found


def _posed(world: World, run: RunConfig, holdout: Holdout) -> bool:
    try:
        problem_for(world, run, share=1.0, holdout=holdout)
    except UserError:
        return False
    return True


def judge(case: Case, name: str, budget: float, seeds: Iterable[int], rules: Rules) -> list[Result]:
    """Run one strategy on one target and budget, once for each seed."""
    made, results = contender(name), []
    for seed in seeds:
        problem, world = case.pose(made.where, budget, seed)
        history, answer, outcome = _search(made.make, problem, world, rules)
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
        reasons=" ".join(answer.reasons), hopeless=case.hopeless, **known,
    )  # fmt: skip


def _search(make, problem: Problem, world: Answers, rules: Rules) -> tuple[History, Recommendation, str]:
    """Its trials and its answer; a strategy that cannot work with the budget says so, and has none."""
    try:
        strategy: Strategy = make(problem)
        if rules.search == "lr,batch":
            strategy = searching_batch(strategy)
        history = replay(strategy, problem, world, rules.slots)
        answer = strategy.recommend(history)
    except UserError as error:
        return History(problem=problem), Recommendation(lr=None, reasons=(str(error),)), "unable"
    return history, answer, "refused" if answer.lr is None else "answered"
