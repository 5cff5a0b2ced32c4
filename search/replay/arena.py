"""The race that `hpt.compare` holds: targets in a recorded sweep, contenders, and what each search
gave up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from scaling.published import LR_LAWS
from search.records import History, Problem, Recommendation
from search.replay.peers import AtTarget, CopySmallest, Formula, Halving
from search.replay.problems import Holdout, direct_problem, problem_for
from search.replay.world import World, replay
from search.strategies.data_scaling import DataScaling
from search.strategies.literature import Literature
from search.strategies.model_scaling import ModelScaling
from search.strategies.transfer import Transfer
from search.strategy import Strategy
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig
from trainer.errors import UserError


@dataclass(frozen=True)
class Contender:
    """A strategy in the race, and whether it trains proxies or at the target's own size."""

    make: Callable[[], Strategy]
    where: Literal["proxies", "target"] = "proxies"


CONTENDERS: dict[str, Contender] = {
    "transfer": Contender(Transfer),
    "model-scaling": Contender(ModelScaling),
    "data-scaling": Contender(DataScaling, "target"),
    "literature": Contender(Literature),
    "copy-smallest": Contender(CopySmallest),
    "random": Contender(AtTarget, "target"),
    "tpe": Contender(lambda: AtTarget(sampler="tpe"), "target"),
    "halving": Contender(Halving, "target"),
    **{f"law: {law.name}": Contender(partial(Formula, law=law)) for law in LR_LAWS},
}
"""Strategies that stop runs early are not here: a table of finished runs cannot say how those would have looked."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What every contender is given alike."""

    holdout: Holdout = "size"
    """What proxies may be: `size`, models smaller than the target; `run`, also its own size on
    fewer tokens."""
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
    """One search, judged."""

    strategy: str
    n: int
    d: int
    b: int
    budget: float
    seed: int
    lr: float
    """NaN: no recommendation."""
    best_lr: float
    regret: float
    """Percent of the lowest loss of the target's smoothed cell."""
    inside50: float
    """1: the interval holds the best lr; NaN: no interval."""
    inside90: float
    trials: int
    cost: float
    """Share of the target's FLOPs that was spent."""


def targets(world: World, rules: Rules) -> list[RunConfig]:
    """The runs to be predicted, each with something smaller in the table."""
    table, found = world.table, []
    largest = table.sizes[-rules.sizes :] if rules.holdout == "run" else table.sizes[1:][-rules.sizes :]
    if not largest:
        raise UserError(
            f"{table.name} holds a single size, {table.sizes[0]:g}: use --holdout run, or a table with several."
        )
    for n, d in sorted({(n, d) for n, d, _ in table.cells if n in largest}):
        any_batch = world.configuration(n, d, table.batches(n, d)[0])
        best = world.best(any_batch, batches=True)[2]
        chosen = table.batches(n, d) if rules.batch == "all" else [best]
        runs = [replace(any_batch, batch=b) for b in chosen]
        found += [run for run in runs if _posed(world, run, rules)]
    if not found:
        raise UserError(f"No target of {table.name} has a smaller run in it: use --holdout run, or fewer --sizes.")
    return found


def _posed(world: World, run: RunConfig, rules: Rules) -> bool:
    try:
        problem_for(world, run, share=1.0, holdout=rules.holdout)
    except UserError:
        return False
    return True


def judge(base: World, name: str, target: RunConfig, budget: float, seeds: Iterable[int], rules: Rules) -> list[Result]:
    """Run one strategy on one target and budget, once for each seed."""
    contender, results = CONTENDERS[name], []
    joint = rules.search == "lr,batch"
    n, d, b = base.key(target)
    lowest, best_lr, _ = base.best(target, batches=joint)
    for seed in seeds:
        world = replace(base, noise=base.sd, seed=seed)
        strategy = contender.make()
        if joint and isinstance(strategy, Transfer):
            strategy = replace(strategy, search="lr,batch")
        if contender.where == "target":
            problem = direct_problem(world, target, share=budget, seed=seed)
        else:
            problem = problem_for(world, target, share=budget, holdout=rules.holdout, seed=seed)
        history, answer = _search(strategy, problem, world, rules.slots)
        regret = math.nan
        if answer.lr is not None:
            regret = 100 * (_loss(world, target, answer.lr, answer.batch) / lowest - 1)
        results.append(
            Result(
                strategy=name, n=n, d=d, b=b, budget=budget, seed=seed,
                lr=answer.lr or math.nan, best_lr=best_lr, regret=regret,
                inside50=_inside(answer.interval50, best_lr),
                inside90=_inside(answer.interval90, best_lr),
                trials=len(history), cost=history.spent.flops / run_flops(target, target.tokens),
            )
        )  # fmt: skip
    return results


def _search(strategy: Strategy, problem: Problem, world: World, slots: int) -> tuple[History, Recommendation]:
    """Its trials and its answer; a strategy that cannot work with the budget says so, and has none."""
    try:
        history = replay(strategy, problem, world, slots)
        return history, strategy.recommend(history)
    except UserError as error:
        return History(problem=problem), Recommendation(lr=None, reasons=(str(error),))


def _loss(world: World, target: RunConfig, lr: float, batch: int | None) -> float:
    """Loss of the target as recommended; an lr or a batch beyond the table counts as its end (so a
    lower bound)."""
    n, d, b = world.key(target)
    measured = world.table.batches(n, d)
    run = replace(target, batch=min(max(batch or b, measured[0]), measured[-1]))
    low, high = world.range(run)
    return world.loss(run, min(max(lr, low), high))


def _inside(interval: tuple[float, float] | None, lr: float) -> float:
    return math.nan if interval is None else float(interval[0] <= lr <= interval[1])


@dataclass(frozen=True, kw_only=True)
class Line:
    """A strategy at a budget, over targets and seeds."""

    strategy: str
    budget: float
    answered: float
    """Share of searches that ended in a recommendation."""
    median: float
    """Regret, percent of the loss, of those."""
    p90: float
    inside50: float
    inside90: float
    trials: float
    cost: float


def summarise(results: list[Result]) -> list[Line]:
    """By budget, then by median regret; those without an answer last."""
    groups: dict[tuple[str, float], list[Result]] = {}
    for r in results:
        groups.setdefault((r.strategy, r.budget), []).append(r)
    lines = []
    for (name, budget), group in groups.items():
        regrets = np.array([r.regret for r in group if not math.isnan(r.regret)])
        lines.append(
            Line(
                strategy=name, budget=budget, answered=len(regrets) / len(group),
                median=float(np.median(regrets)) if len(regrets) else math.nan,
                p90=float(np.quantile(regrets, 0.9)) if len(regrets) else math.nan,
                inside50=_mean([r.inside50 for r in group]),
                inside90=_mean([r.inside90 for r in group]),
                trials=_mean([r.trials for r in group]), cost=_mean([r.cost for r in group]),
            )
        )  # fmt: skip
    return sorted(lines, key=lambda x: (x.budget, math.isnan(x.median), x.median))


def _mean(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return float(np.mean(known)) if known else math.nan
