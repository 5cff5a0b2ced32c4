"""Data scaling: the best lr of the target's model after few steps, and a law of D carried to its horizon."""

from __future__ import annotations

from dataclasses import dataclass, replace

from search.evidence.law import recommend_by_law
from search.evidence.sweeps import Sweep, ask_sweeps, cells_of, even_lrs, fitting, shortened, stages
from search.records import History, Proposal, Recommendation
from search.shapes.menu import nearest
from search.strategy import Done, Stage, Strategy
from trainer.errors import UserError

FEW_STEPS = 25  # of the shortest; lrs are left out before


@dataclass(frozen=True, kw_only=True)
class DataScaling(Strategy):
    """The whole model for 50, 100 and 200 steps at about ten lrs each; hypotheses of lr(D) are fitted."""

    steps: tuple[int, ...] = (50, 100, 200)
    """Of the optimiser; all are shortened alike where the budget holds no more."""
    lrs: int = 10
    """At each length, evenly over --lr-range."""
    anneal: bool = True
    """Each length has a complete schedule. False: the beginning of the target's, which may be nothing but warmup."""
    extend: int = 2
    """Trials beyond the end of the lrs at each length whose best lies there."""

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1 or self.lrs < 3 or self.extend < 0:
            raise UserError("--data-scaling needs positive steps, at least 3 lrs and extend >= 0.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"lengths" if self.anneal else "cuts_short"})

    def plan(self, history: History) -> list[Stage]:
        return stages(history, self._sweeps(history), self.extend)

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        return ask_sweeps(history, slots, self._sweeps(history), self.extend)

    def recommend(self, history: History) -> Recommendation:
        return recommend_by_law(history, cells_of(history, self._sweeps(history)), "D")

    def _sweeps(self, history: History) -> list[Sweep]:
        least = FEW_STEPS / min(self.steps)
        return fitting(history, self.lrs, lambda n, s: self._make(history, n, s), self.extend, least)

    def _make(self, history: History, lrs: int, scale: float) -> list[Sweep]:
        problem = history.problem
        found: dict[str, Sweep] = {}
        for steps in self.steps:
            tokens = max(1, round(scale * steps)) * problem.target.batch
            if tokens >= problem.target.tokens:
                continue
            run = nearest(problem, shortened(problem.target, tokens))
            horizon = run.tokens
            if not self.anneal and problem.proxies is None:
                run = replace(problem.target, lr=None)
            name = f"{run.steps_at(horizon)}-steps"
            found[name] = Sweep(name=name, run=run, horizon=horizon, lrs=even_lrs(lrs, problem.lr_range))
        if not found:
            raise UserError(
                f"The target trains for {problem.target.steps} steps: --data-scaling.steps must have shorter ones."
            )
        return list(found.values())
