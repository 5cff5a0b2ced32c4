"""Drives a strategy: the one place where proposals meet the budget. Used by the Tune executor and by replay."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

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
        return History(problem=self.problem, trials=tuple(self.trials), running=tuple(self.running.values()))

    @property
    def committed(self) -> Spending:
        """Forecast of what is running."""
        forecast = self.problem.cost.forecast
        return sum((forecast(p.run, p.train_tokens) for p in self.running.values()), Spending())

    def next(self, slots: int = 1) -> list[Proposal] | Done:
        """Up to `slots` proposals to start now; [] to wait; DONE when the search is over."""
        if self.over:
            return [] if self.running else DONE
        answer = self.strategy.ask(self.history, slots)
        if isinstance(answer, Done):
            self.over = "the strategy is done"
            return [] if self.running else DONE
        started: list[Proposal] = []
        for proposal in answer[:slots]:
            cost = self.problem.cost.forecast(proposal.run, proposal.train_tokens)
            if not self.problem.budget.allows(self.history.spent + self.committed + cost):
                self.over = f"the budget does not hold {proposal.id} as well"
                break
            self.running[proposal.id] = proposal
            started.append(proposal)
        if not started and not self.running:
            self.over = self.over or "the strategy asked for nothing although nothing was running"
            return DONE
        return started

    def finish(self, trial: Trial) -> None:
        """Record how a running proposal ended."""
        self.running.pop(trial.id, None)
        self.trials.append(trial)

    def correct(self, ratio: float) -> None:
        """Correct the forecasts by what trials really took over what was forecast."""
        self.problem = replace(self.problem, cost=replace(self.problem.cost, correction=ratio))
