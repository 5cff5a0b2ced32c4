"""Literature: published laws as a mixture, shifted by what a few cheap trials show."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from scaling.hypotheses import copy_sd
from scaling.optimum import Optimum
from scaling.published import Prediction, Scale, mixture, predict_all
from search.budget import Spending
from search.evidence.answers import calibration_cost, nothing, recommendation
from search.evidence.cells import cells
from search.evidence.sweeps import shortened
from search.records import History, Proposal, Recommendation
from search.shapes.menu import nearest
from search.strategy import DONE, Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Literature(Strategy):
    """The mean of the published laws, and up to three trials of the target's model that anchor it.

    The trials measure by how much the mixture is off at a short horizon; the target's is shifted as much, as far as
    the measurement is surer than the laws.
    """

    grows: ClassVar[bool] = True
    trials: int = 3
    """0 to 3; 0 runs nothing."""
    fraction: float = 0.1
    """Of the target's tokens that a trial trains, with a complete schedule."""
    ratio: float = 3.0
    """From one trial's lr to the next, the first being the mixture's. Wide, for the laws disagree by more."""

    def __post_init__(self) -> None:
        if not 0 <= self.trials <= 3 or not 0 < self.fraction <= 1 or self.ratio <= 1:
            raise UserError("--literature needs 0 to 3 trials, 0 < fraction <= 1 and ratio > 1.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"lengths"} if self.trials and self.fraction < 1 else ())

    def plan(self, history: History) -> list[Stage]:
        run, n = self._run(history), self._affordable(history)
        if not n:
            return []
        return [
            Stage(
                name="anchor",
                trials=n,
                parameters=parameters(run.model).total,
                tokens=n * run.tokens,
                cost=self._cost(history) * n,
                run=run,
                note=f"{run.tokens:,} tokens each",
            )
        ]

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        run = self._run(history)
        middle, _ = mixture(predict_all(scale_of(run)))
        steps = self._steps(history)[: self._affordable(history)]
        new = [
            Proposal(
                id=f"anchor-{k + 1}",
                run=replace(run, lr=math.exp(middle) * self.ratio**step),
                horizon=run.tokens,
                tags={"stage": "anchor", "config": k},
            )
            for k, step in enumerate(steps)
        ]
        new = [p for p in new if p.id not in history.known]
        return new[:slots] if new or history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        mine = replace(history, trials=tuple(t for t in history if t.tags.get("stage") == "anchor"))
        said = predict_all(scale_of(history.problem.target))
        log_lr, sd = mixture(said)
        reasons = [_spread(said)]
        found = [(c, o) for c in cells(mine) if (o := c.optimum()) is not None]
        if not found:
            if self.trials and self._affordable(history):
                return nothing(mine)
            valley = Optimum(log_lr=log_lr, sd=sd, loss=0.0, curvature=0.0)
            prior = recommendation(history, valley, log_lr, sd, law=_law(), reasons=reasons, trials=())
            return replace(prior, expected_regret=None, worst_regret=None)
        cell, optimum = found[-1]
        there, _ = mixture(predict_all(scale_of(cell.run)))
        away = copy_sd(
            math.log(parameters(history.problem.target.model).non_embedding / cell.n_non_embedding),
            math.log(history.problem.target.tokens / cell.horizon),
        )
        measured, measured_sd = log_lr + optimum.log_lr - there, math.hypot(optimum.sd, away)
        trust = sd**2 / (sd**2 + measured_sd**2)
        reasons += [*optimum.reasons, _shift(optimum.log_lr - there, cell.horizon, trust)]
        return recommendation(
            history,
            optimum,
            log_lr + trust * (measured - log_lr),
            math.sqrt(1 - trust) * sd,
            law=_law(),
            reasons=reasons,
            trials=tuple(t.id for t in cell.trials),
            rejected=tuple((p.name, p.note) for p in said if not p.in_range),
        )

    def _steps(self, history: History) -> list[int]:
        """Powers of `ratio` from the mixture's lr: at it, below it, and on the better side of the better one."""
        first, below = history.get("anchor-1"), history.get("anchor-2")
        if first is None or below is None:
            return [0, -1]
        lower = first.loss is None or (below.loss is not None and below.loss < first.loss)
        return [0, -1, -2 if lower else 1]

    def _run(self, history: History) -> RunConfig:
        target = history.problem.target
        return nearest(history.problem, shortened(target, self.fraction * target.tokens))

    def _cost(self, history: History) -> Spending:
        run = self._run(history)
        return history.problem.cost.forecast(run, run.tokens)

    def _affordable(self, history: History) -> int:
        """Trials that the budget holds; none is no error here, the laws cost nothing."""
        before, cost = calibration_cost(history), self._cost(history)
        fits = [n for n in range(self.trials + 1) if not n or history.problem.budget.allows(before + cost * n)]
        return fits[-1]


def scale_of(run: RunConfig) -> Scale:
    """A run as the published laws see it."""
    counted, model = parameters(run.model), run.model
    return Scale(
        n_total=counted.total,
        n_non_embedding=counted.non_embedding,
        n_layers=model.depth,
        width=model.width,
        context=model.context,
        D=run.tokens,
        B=run.batch,
    )


def _law() -> str:
    return "mixture of published laws"


def _spread(said: list[Prediction]) -> str:
    each = ", ".join(f"{p.name} {math.exp(p.log_value):.2g}{'' if p.in_range else '*'}" for p in said)
    values = [p.log_value for p in said]
    return (
        f"the published laws say {each} (* outside what they were fitted on): they differ "
        f"{math.exp(max(values) - min(values)):.2g}-fold, and none is trusted alone"
    )


def _shift(shift: float, tokens: int, trust: float) -> str:
    return (
        f"after {tokens:,} tokens the best lr is {math.exp(shift):.2f} times what the laws say there; at the target "
        f"{trust:.0%} of that shift is taken over"
    )
