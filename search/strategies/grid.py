"""A dense grid at the target itself: no shortcut, the truth that other strategies are judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from search.evidence.answers import calibration_cost, recommend_from_history
from search.records import History, Proposal, Recommendation
from search.strategy import DONE, Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Grid(Strategy):
    """Whole target runs over --lr-range; give it the budget it needs, such as trials x the target's FLOPs."""

    grows: ClassVar[bool] = True
    ratio: float = 2.0
    """From one lr to the next."""
    seeds: int = 2
    """Runs at each lr, with seeds --seed, --seed + 1 ..."""

    def plan(self, history: History) -> list[Stage]:
        target, n = history.problem.target, len(self._wanted(history))
        cost = history.problem.cost.forecast(target, target.tokens) * n
        if not history.problem.budget.allows(cost + calibration_cost(history)):
            raise UserError(
                f"The budget is too small for a grid of {n} target runs: raise it to "
                f"{history.problem.budget.needed(cost + calibration_cost(history))}, or narrow --lr-range."
            )
        return [
            Stage(
                name="grid",
                trials=n,
                parameters=parameters(target.model).total,
                tokens=n * target.tokens,
                cost=cost,
                run=target,
                note=f"{self.seeds} seeds at {n // self.seeds} lrs",
            )
        ]

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        new = [p for p in self._wanted(history) if p.id not in history.known]
        return new[:slots] if new or history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        return recommend_from_history(history)

    def _wanted(self, history: History) -> list[Proposal]:
        target, (low, high) = history.problem.target, history.problem.lr_range
        points = math.floor(math.log(high / low) / math.log(self.ratio) + 1e-9) + 1
        return [
            Proposal(
                id=f"grid-{seed + 1}-{k + 1:03d}",
                run=replace(target, lr=low * self.ratio**k, seed=target.seed + seed),
                horizon=target.tokens,
                tags={"stage": "grid", "config": k, "seed": seed},
            )
            for seed in range(self.seeds)
            for k in range(points)
        ]
