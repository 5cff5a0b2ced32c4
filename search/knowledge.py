"""What a history says about the target under the batch-conditional law, and which runs would say more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from scaling.batchlaw import prior
from scaling.design import Choice, Design
from scaling.hierarchy import Posterior, Runs, fit
from search.budget import Spending
from search.ladder import ladder
from search.menu import point
from search.records import History, Problem, Trial
from trainer.config import RunConfig

NEAR_BATCHES = 5  # batches of the menu, nearest to the target's, that are considered at each (N, D)


class Settings(Protocol):
    """Of the strategy, read only."""

    sizes: tuple[float, ...]
    horizons: tuple[float, ...]
    exchange: float
    uses: float
    max_trials: int


@dataclass
class Knowledge:
    """Made anew from a history at every decision; everything in it is derived."""

    settings: Settings
    history: History

    @property
    def problem(self) -> Problem:
        return self.history.problem

    @cached_property
    def origin(self) -> np.ndarray:
        return np.array(point(self.problem.target))

    @cached_property
    def candidates(self) -> list[RunConfig]:
        """Runs that may be asked for, affordable at all, without those that failed twice."""
        problem, runs = self.problem, self.problem.proxies
        if runs is None:
            runs = ladder(problem.target, self.settings.sizes, self.settings.horizons, (1.0, 0.25))
        failed = Counter(point(t.run) for t in self.history if t.status == "failed")
        groups: dict[tuple[float, float], list[RunConfig]] = {}
        for run in runs:
            at = point(run)
            if failed[at] < 2 and problem.budget.allows(self._forecast(run)):
                groups.setdefault(at[:2], []).append(run)
        target = math.log(problem.target.batch)
        for group in groups.values():
            group.sort(key=lambda run: (abs(point(run)[2] - target), run.batch))
        return [run for group in groups.values() for run in group[:NEAR_BATCHES]]

    def _forecast(self, run: RunConfig) -> Spending:
        return self.problem.cost.forecast(run, run.tokens)

    @cached_property
    def runs(self) -> Runs:
        """Finished and diverged trials, relative to the target."""
        rows = [
            (*(np.array(point(t.run)) - self.origin), math.log(t.lr), math.inf if t.loss is None else t.loss)
            for t in self.history
            if t.status in ("finished", "diverged")
        ]
        return Runs(*np.array(rows).reshape(-1, 5).T)

    @cached_property
    def posterior(self) -> Posterior:
        n, d, b = np.exp(self.origin)
        return fit(self.runs, prior(n, d, b, self.problem.target.parametrisation))

    @cached_property
    def share_of_target(self) -> float:
        """The target's own cost, as a share of the budget."""
        return self.problem.budget.share(self._forecast(self.problem.target))

    def size(self, trial: Trial) -> float:
        """ln N of a trial's model."""
        return point(trial.run)[0]

    def choices(self, slots: int) -> Iterator[Choice]:
        """The next runs, best first, until `slots` are filled, the budget is, or they are not worth their cost."""
        if not self.candidates:
            return
        cells = np.array([point(run) for run in self.candidates]) - self.origin
        costs = np.array([self.problem.budget.share(self._forecast(run)) for run in self.candidates])
        design = Design(self.posterior, cells, costs)
        spent = self.history.spent
        for proposal in self.history.running:
            spent += self.problem.cost.forecast(proposal.run, proposal.train_tokens)
            at = np.array(point(proposal.run)) - self.origin
            same = np.flatnonzero(np.all(np.abs(cells - at) < 1e-9, axis=1))
            if len(same):
                design.assume(int(same[0]), np.array([math.log(proposal.lr)]))
        left = 1 - self.problem.budget.share(spent)
        slots = min(slots, self.settings.max_trials - len(self.history) - len(self.history.running))
        low, high = (math.log(v) for v in self.problem.lr_range)
        while slots > 0:
            choice = design.choose(left, low, high)
            if choice is None or not self.worth(choice):
                return
            yield choice
            left -= choice.cost
            slots -= len(choice.log_lr)

    def worth(self, choice: Choice) -> bool:
        """Whether the loss saved pays for the runs, in runs of the target."""
        saved = math.exp(self.posterior.mean[7]) * choice.saved / self.settings.exchange
        return saved * self.settings.uses * self.share_of_target >= choice.cost
