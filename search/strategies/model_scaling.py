"""Model scaling: the best lr of several small models, and a law of N carried to the target."""

from __future__ import annotations

from dataclasses import dataclass

from search.evidence.law import recommend_by_law
from search.evidence.sweeps import (
    Sweep,
    ask_sweeps,
    cells_of,
    even_lrs,
    fitting,
    shortened,
    smaller,
    stages,
)
from search.records import History, Proposal, Recommendation
from search.shapes.menu import nearest
from search.strategy import Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.errors import UserError

FEW_STEPS = 50  # below, a run says little; lrs are left out before


@dataclass(frozen=True, kw_only=True)
class ModelScaling(Strategy):
    """Tiniest, tinier and tiny at about ten lrs each; hypotheses of lr(N) are fitted and the best is extrapolated."""

    sizes: tuple[tuple[int, int, int], ...] = ((1, 64, 1), (2, 128, 2), (3, 192, 3))
    """depth, width, heads of each model. Where one is not smaller than the target: about 1/8, 1/4 and 1/2 of it."""
    lrs: int = 10
    """At each size, evenly over --lr-range; fewer where the budget holds no more."""
    fraction: float = 1.0
    """Of the target's tokens that each trial trains, with a complete schedule; less where the budget holds no more."""
    extend: int = 2
    """Trials beyond the end of the lrs at each size whose best lies there: an optimum at an end cannot be fitted."""

    def __post_init__(self) -> None:
        if not self.sizes or self.lrs < 3 or not 0 < self.fraction <= 1 or self.extend < 0:
            raise UserError("--model-scaling needs a size, at least 3 lrs, 0 < fraction <= 1 and extend >= 0.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"lengths", "sizes"})

    def plan(self, history: History) -> list[Stage]:
        return stages(history, self._sweeps(history), self.extend)

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        return ask_sweeps(history, slots, self._sweeps(history), self.extend)

    def recommend(self, history: History) -> Recommendation:
        return recommend_by_law(history, cells_of(history, self._sweeps(history)), "N")

    def _sweeps(self, history: History) -> list[Sweep]:
        target = history.problem.target
        least = FEW_STEPS / (self.fraction * target.steps)
        return fitting(history, self.lrs, lambda n, s: self._make(history, n, s), self.extend, least)

    def _make(self, history: History, lrs: int, scale: float) -> list[Sweep]:
        problem = history.problem
        whole = parameters(problem.target.model).non_embedding
        found: dict[str, Sweep] = {}
        for wanted in smaller(problem.target, self.sizes):
            run = nearest(problem, shortened(wanted, scale * self.fraction * problem.target.tokens))
            if parameters(run.model).non_embedding < whole:
                name = f"{run.model.depth}x{run.model.width}"
                lr_at = even_lrs(lrs, problem.lr_range)
                found[name] = Sweep(name=name, run=run, horizon=run.tokens, lrs=lr_at)
        if not found:
            raise UserError("model-scaling needs a proxy smaller than the target, and there is none.")
        return list(found.values())
