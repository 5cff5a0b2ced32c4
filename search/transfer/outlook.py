"""What a search left open, and what more trials would buy: asked of the law that `transfer` uses, whoever searched."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from search.budget import Budget, Spending
from search.records import History
from search.transfer.belief import Belief
from search.transfer.choosing import Chooser
from search.transfer.settings import TransferSettings
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig

MORE = 0.25  # target runs
SIZES = (1 / 16, 1 / 4, 1.0)
"""Shares of the target's parameters: a search begins with smaller ones, but what is left to be learnt is nearer."""
MOST = 100  # trials


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The trials of most use that a quarter of a target run more would pay for."""

    runs: tuple[tuple[RunConfig, tuple[float, ...]], ...]
    """(run without lr, lrs)"""
    cost: Spending
    now: float
    """Sd of ln lr* at the target."""
    after: float


def outlook(history: History) -> Outlook | None:
    """None where the law has nothing to go by, or no such run would tell more. Trials cut short are left out."""
    whole = tuple(t for t in history if t.horizon == t.run.tokens)
    flops = history.spent.flops + MORE * run_flops(history.problem.target)
    problem = replace(history.problem, budget=Budget(flops=flops))
    belief = Belief(
        TransferSettings(sizes=SIZES, uses=math.inf, trunks=False, max_trials=len(whole) + MOST),
        replace(history, problem=problem, trials=whole),
    )
    chooser = Chooser(belief)
    if not belief.runs.loss.size:
        return None
    choices = list(chooser.choices(MOST))
    if not choices:
        return None
    runs: dict[RunConfig, tuple[float, ...]] = {}
    for choice in choices:
        run = chooser.candidates[choice.cell]
        runs[run] = runs.get(run, ()) + tuple(math.exp(v) for v in choice.log_lr)
    forecast = problem.cost.forecast
    cost = sum((forecast(run, run.tokens) * len(lrs) for run, lrs in runs.items()), Spending())
    now = belief.posterior.predict(*belief.target)[1]
    after = math.sqrt(max(0.0, choices[-1].variance))
    return Outlook(runs=tuple(runs.items()), cost=cost, now=now, after=after)


def untried(history: History) -> list[str]:
    """Names of what every trial had alike, and the answer therefore rests on."""
    trials = [t for t in history if t.status in ("finished", "diverged")]
    held = {
        "batch": {t.run.batch for t in trials},
        "weight decay": {t.run.weight_decay for t in trials},
        "warmup": {t.run.warmup for t in trials},
        "seed": {t.run.seed for t in trials},
        "model size": {t.run.model for t in trials},
        "number of tokens": {t.horizon for t in trials},
    }
    return [name for name, values in held.items() if len(values) == 1]
