"""Greedy: double the lr of the whole model until it diverges, then try fractions of that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from search.evidence.answers import calibration_cost, recommend_from_history
from search.records import History, Proposal, Recommendation, Trial
from search.strategy import DONE, Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.errors import UserError

SAME = 0.05  # lrs nearer than this in ln are not tried twice


@dataclass(frozen=True, kw_only=True)
class Greedy(Strategy):
    """The whole model without warmup for a few steps at each lr. Cheap, and only a bound on what is stable."""

    grows: ClassVar[bool] = True
    steps: int = 10
    """Of the optimiser, for every trial."""
    start: float | None = None
    """The first lr; None: the lower end of --lr-range."""
    highest: float = 10.0
    """Doubling ends here if nothing has diverged."""
    fractions: tuple[float, ...] = (0.75, 0.375, 0.1875)
    """Of the ceiling, which is the diverged lr and from the second round twice the best so far."""
    rounds: int = 3
    """Of fractions."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rounds < 0 or not self.fractions or not all(0 < f < 1 for f in self.fractions):
            raise UserError("--greedy needs at least 1 step, rounds >= 0 and fractions between 0 and 1.")
        if not 0 < (self.start or self.highest) <= self.highest:
            raise UserError("--greedy.start must be positive and at most --greedy.highest.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"cuts_short"})

    def plan(self, history: History) -> list[Stage]:
        target, n = self._run(history), self._affordable(history)
        return [
            Stage(
                name="greedy",
                trials=n,
                parameters=parameters(target.model).total,
                tokens=n * self._horizon(history),
                cost=history.problem.cost.forecast(target, self._horizon(history)) * n,
                run=target,
                note=f"{self.steps} steps each; fewer where it diverges early",
            )
        ]

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        left = self._affordable(history) - sum(p.id.startswith("greedy") for p in (*history, *history.running))
        new = [p for group in self._rounds(history) for p in group if p.id not in history.known]
        new = new[: min(slots, left)]
        return new if new or history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        found = recommend_from_history(history)
        if found.lr is None:
            return found
        said = f"{self.steps} steps without warmup show which lrs are stable, hardly which one ends best"
        return replace(found, reasons=(said, *found.reasons))

    def _rounds(self, history: History) -> Iterator[list[Proposal]]:
        """The doublings one by one, then each round, as far as they are decided: all before the last have ended."""
        lr = self.start or history.problem.lr_range[0]
        tried: list[Trial] = []
        while True:
            wanted = [self._proposal(history, f"greedy-{len(tried) + 1:02d}", lr)]
            yield wanted
            ended = [t for p in wanted if (t := history.get(p.id)) is not None]
            if not ended:
                return
            tried += ended
            if ended[0].status == "diverged" or lr * 2 > self.highest * (1 + 1e-9):
                break
            lr *= 2
        ceiling = lr
        for r in range(1, self.rounds + 1):
            fresh = [lr for f in self.fractions if _new(lr := ceiling * f, tried)]
            wanted = [self._proposal(history, f"greedy-r{r}-{j + 1}", lr) for j, lr in enumerate(fresh)]
            yield wanted
            ended = [t for p in wanted if (t := history.get(p.id)) is not None]
            if len(ended) < len(wanted):
                return
            tried += ended
            finished = [t for t in tried if t.loss is not None]
            best = min(finished, key=lambda t: (t.loss or 0.0, t.lr), default=None)
            # Nothing is stable yet: lower still.
            ceiling = 2 * best.lr if best else ceiling * min(self.fractions)

    def _proposal(self, history: History, name: str, lr: float) -> Proposal:
        return Proposal(
            id=name,
            run=replace(self._run(history), lr=lr),
            horizon=self._horizon(history),
            tags={"stage": "greedy"},
        )

    def _run(self, history: History) -> RunConfig:
        return replace(history.problem.target, warmup=0, lr=None)

    def _horizon(self, history: History) -> int:
        target = history.problem.target
        return min(self.steps, target.steps) * target.batch

    def _affordable(self, history: History) -> int:
        start = self.start or history.problem.lr_range[0]
        most = 1 + math.floor(math.log2(self.highest / start) + 1e-9) + self.rounds * len(self.fractions)
        before = calibration_cost(history)
        cost = history.problem.cost.forecast(self._run(history), self._horizon(history))
        for n in range(most, 0, -1):
            if history.problem.budget.allows(before + cost * n):
                return n
        raise UserError(
            f"The budget is too small for one trial of greedy ({self._horizon(history):,} tokens): raise it to "
            f"{history.problem.budget.needed(before + cost)}, or lower --greedy.steps."
        )


def _new(lr: float, tried: list[Trial]) -> bool:
    return all(abs(math.log(lr / t.lr)) > SAME for t in tried)
