"""Drives a strategy: the one place where proposals meet the budget. Used by the Tune executor and by replay."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from search.budget import Spending
from search.records import History, Problem, Proposal, Trial
from search.strategy import DONE, Done, Strategy


@dataclass
class Session:
    """Mutable shell around the pure strategy: what ended, what runs, whether it is over."""

    strategy: Strategy
    problem: Problem
    trials: list[Trial] = field(default_factory=list)
    running: dict[str, Proposal] = field(default_factory=dict)
    over: str = ""
    """Why no further trial is started; empty while it goes on."""

    @property
    def history(self) -> History:
        running = tuple(self.running.values())
        return History(problem=self.problem, trials=tuple(self.trials), running=running)

    def next(self, slots: int = 1) -> list[Proposal] | Done:
        """Up to `slots` proposals to start now; [] to wait; DONE when the search is over."""
        started: list[Proposal] = []
        if not self.over:
            answer = self.strategy.ask(self.history, slots)
            if isinstance(answer, Done):
                self.over = "the strategy has what it wants"
            else:
                started = self._admit(answer[:slots])
                if not started and not self.running:
                    self.over = self.over or "the strategy asked for nothing while nothing ran"
        return DONE if self.over and not self.running else started

    def _admit(self, proposals: list[Proposal]) -> list[Proposal]:
        """Those that still fit the budget beside what was spent and what runs; from the first that does not, none."""
        total = self.history.spent + sum(map(self.forecast, self.running.values()), Spending())
        for i, proposal in enumerate(proposals):
            total += self.forecast(proposal)
            if not self.problem.budget.allows(total):
                self.over = f"the budget does not hold trial {proposal.id} as well"
                return proposals[:i]
            self.running[proposal.id] = proposal
        return proposals

    def finish(self, trial: Trial) -> None:
        """Record how a running proposal ended."""
        self.running.pop(trial.id, None)
        self.trials.append(trial)

    def forecast(self, proposal: Proposal) -> Spending:
        """What it will cost, corrected by what trials really took so far."""
        cost = self.problem.cost.forecast(proposal.run, proposal.train_tokens)
        slower = self.correction
        return Spending(cost.seconds * slower, cost.flops, cost.usd * slower)

    def billed(self, proposal: Proposal, outcome: dict[str, Any], seconds: float) -> Trial:
        """The record of a proposal that ended so, after it held a slot for `seconds`."""
        return Trial(
            id=proposal.id,
            parent=proposal.parent,
            run=proposal.run,
            horizon=proposal.horizon,
            start=proposal.start,
            tags=proposal.tags,
            seconds=seconds,
            usd=seconds / 3600 * self.problem.cost.usd_per_hour,
            **outcome,
        )

    def exhausted(self, seconds: float) -> bool:
        """Whether a cap on time or money is reached by what was spent and `seconds` of slots not billed yet."""
        price = self.problem.cost.usd_per_hour
        total = self.history.spent + Spending(seconds, 0.0, seconds / 3600 * price)
        return not self.problem.budget.allows(total)

    @property
    def correction(self) -> float:
        """Median of seconds taken over seconds forecast, of the newest 20 finished trials; 1 before the third.

        Strategies plan by the calibration alone, so that a plan does not change under way; this corrects only
        what is launched and the time left.
        """
        ratios = []
        for trial in self.trials[-20:]:
            forecast = self.problem.cost.forecast(trial.run, trial.horizon - trial.start).seconds
            if trial.status == "finished" and forecast > 0:
                ratios.append(trial.seconds / forecast)
        return statistics.median(ratios) if len(ratios) >= 3 else 1.0
