"""What a strategy is: settings with three pure functions of the history."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from search.budget import Spending
from search.records import History, Proposal, Recommendation
from trainer.config import RunConfig


class Done:
    """Returned by `ask` when no further trial is wanted."""


DONE = Done()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One line of a plan: so many trials of one kind."""

    name: str
    trials: int
    parameters: int
    """Total parameters of the model trained."""
    tokens: float
    """Training tokens of all its trials together."""
    cost: Spending
    run: RunConfig | None = None
    """One of them, so that its shape can be calibrated."""
    note: str = ""
    waits: bool = False
    """It begins when those before it have ended."""


def wall_seconds(stages: Sequence[Stage], slots: int) -> float:
    """How long the stages take on so many slots, each of which goes on with the next trial as soon as one has ended."""
    free = [0.0] * slots
    for stage in stages:
        if stage.waits:
            free = [max(free)] * slots
        if not stage.trials:  # nobody knows how many it will be
            free = [time + stage.cost.seconds / slots for time in free]
        for _ in range(stage.trials):
            heapq.heapreplace(free, free[0] + stage.cost.seconds / stage.trials)
    return max(free)


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """Fields are the settings that a user may change; a subclass is final (it is not subclassed again).

    Every method depends on its arguments alone: no Ray, disk, clock or global random state. So a search is
    resumed by reading its history and asking again, and runs unchanged on recorded sweeps.
    """

    grows: ClassVar[bool] = False
    """Given more money under way it asks for more, and what it asked for before stays what it was. Else a top-up pays
    for the plan that was made at the beginning, and for no larger one: its trials would have other meanings."""

    @property
    def needs(self) -> frozenset[str]:
        """What it cannot do without of a trial's trainer: names of `search.execution.contract.Can`."""
        return frozenset()

    @abstractmethod
    def plan(self, history: History) -> list[Stage]:
        """What would be run, stage by stage, with its bill; UserError when the budget is too small for one trial."""

    @abstractmethod
    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        """At most `slots` further proposals whose ids are not in `history.known`.

        An empty list: wait for running trials. DONE: no more, ever.
        """

    @abstractmethod
    def recommend(self, history: History) -> Recommendation:
        """The answer that the history so far supports; also for an empty or failed one (then lr is None)."""

    def shapes(self, history: History) -> list[RunConfig]:
        """Runs whose steps are to be timed before the search: one of each shape that may be asked for."""
        return [stage.run for stage in self.plan(history) if stage.run is not None]

    def keeps(self, history: History) -> set[str]:
        """Ids of ended trials whose trunk checkpoints may still be continued."""
        return {t.id for t in history if t.trunk is not None}
