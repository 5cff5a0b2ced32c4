"""Drives a strategy: the one place where proposals meet the budget. Used by the Tune executor and by replay."""

from __future__ import annotations

import math
import statistics
import threading
from dataclasses import dataclass, field
from typing import Any

from search.budget import Budget, Spending
from search.execution.contract import without_seed
from search.execution.purse import Purse
from search.records import CUT_OFF, History, Problem, Proposal, Trial
from search.strategy import DONE, Done, Strategy

WATCHED = 1.0
"""Seconds over its forecast that are held for a trial: how late its stop may come, what it costs beside training."""
NEWEST = 20
"""Trials that say by how much forecasts are off."""


@dataclass
class Session:
    """Mutable shell around the pure strategy: what ended, what runs, whether it is over."""

    strategy: Strategy
    problem: Problem
    trials: list[Trial] = field(default_factory=list[Trial])
    running: dict[str, Proposal] = field(default_factory=dict[str, Proposal])
    over: str = ""
    """Why no further trial is started; empty while it goes on."""
    cap: Budget | None = None
    """What may be spent, where that is not the budget that the strategy plans with (a top-up, a reserve)."""
    launch_seconds: float = 0.0
    """That a worker process may take to start: held beside a trial while some process is still to be started."""
    seedless: bool = False
    """The trainer has no seeds: what would repeat a run is run at a neighbouring lr."""
    patience: int | None = None
    """So many trials in a row that fail alike, the first of a search or later ones, end it; None: none do."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    """Held while the books change: they are watched from another thread (`search.execution.desk`)."""

    def __post_init__(self) -> None:
        self._purse: Purse | None = None
        self._waited: tuple[int, ...] = ()
        self._past: tuple[int, int, tuple[Trial, ...], Spending] = (0, -1, (), Spending())

    @property
    def purse(self) -> Purse:
        if self._purse is None:
            cost, cap = self.problem.cost, self.cap or self.problem.budget
            spent = sum((t.spending for t in self.trials), Spending())
            self._purse = Purse(cap.whole, cost.usd_per_hour, spent)
        return self._purse

    @property
    def history(self) -> History:
        """What the strategy may know: attempts that were cut off are a bill, no trials."""
        if self._past[:2] != (id(self.trials), len(self.trials)):
            seen = tuple(t for t in self.trials if t.tags.get("stage") != CUT_OFF)
            lost = sum((t.spending for t in self.trials if t.tags.get("stage") == CUT_OFF), Spending())
            self._past = (id(self.trials), len(self.trials), seen, lost)
        *_, seen, lost = self._past
        return History(problem=self.problem, trials=seen, running=tuple(self.running.values()), lost=lost)

    def next(self, slots: int = 1) -> list[Proposal] | Done:
        """Up to `slots` proposals to start now; [] to wait; DONE when the search is over. While nothing has changed
        since it said to wait, it is not asked again."""
        now = (len(self.trials), len(self.running), slots)
        if self.over or now == self._waited:
            return DONE if self.over and not self.running else []
        answer = self.strategy.ask(self.history, slots)
        started: list[Proposal] = []
        if isinstance(answer, Done):
            self.over = "the strategy has what it wants"
        else:
            started = self._admit(self._seeded(answer[:slots]))
            if not started and not self.running:
                self.over = self.over or "the strategy asked for nothing while nothing ran"
        self._waited = () if started else now
        return DONE if self.over and not self.running else started

    def _seeded(self, proposals: list[Proposal]) -> list[Proposal]:
        if not self.seedless:
            return proposals
        found = list[Proposal]()
        for proposal in proposals:
            running = [*self.running.values(), *found]
            found.append(without_seed(proposal, self.problem.target, self.trials, running))
        return found

    def _admit(self, proposals: list[Proposal]) -> list[Proposal]:
        """Those that still fit the budget beside what was spent and what runs; from the first that does not, none. What
        runs may leave some of what is held for it, so only when nothing runs is the search over."""
        with self.lock:
            for i, proposal in enumerate(proposals):
                if not self.purse.hold(proposal.id, self.upper(proposal)):
                    if not self.running:
                        self.over = f"the budget does not hold trial {proposal.id} as well"
                    return proposals[:i]
                self.running[proposal.id] = proposal
        return proposals

    def finish(self, trial: Trial) -> None:
        """Record how a running proposal ended."""
        with self.lock:
            self.running.pop(trial.id, None)
            self.purse.pay(trial.id, trial.spending)
            self.trials.append(trial)
            self.over = self.over or self.hopeless()

    def hopeless(self) -> str:
        """That the newest trials have all failed in the same way; empty: they have not."""
        tried = [t for t in self.trials if not t.aside]
        last = tried[-(self.patience or 0) :] if self.patience else []
        first = {t.error.split("\n")[0][:80] for t in last}
        if len(last) < (self.patience or 1) or any(t.status != "failed" for t in last):
            return ""
        if len(first) > 1 and len(tried) > len(last):
            return ""
        return f"{len(last)} trials in a row failed, the last: {last[-1].error}"

    def give_back(self, proposal: Proposal) -> None:
        """It was not begun."""
        with self.lock:
            self.running.pop(proposal.id, None)
            self.purse.holds.pop(proposal.id, None)

    def forecast(self, proposal: Proposal) -> Spending:
        """What it will cost, corrected by what trials really took so far."""
        return self._at(proposal, self.correction)

    def upper(self, proposal: Proposal) -> Spending:
        """What it may cost at the pessimistic end: it is started only if as much is free. Its evaluation is in the
        forecast; so are its FLOPs, to the last one."""
        expected, timing = self._at(proposal, self.pessimism), self.problem.cost.timing(proposal.run)
        pack = timing.pack if timing else 1
        return expected + self.purse.bill(WATCHED + self.launch_seconds / pack)

    def _at(self, proposal: Proposal, slower: float) -> Spending:
        cost = self.problem.cost.forecast(proposal.run, proposal.train_tokens)
        return Spending(cost.seconds * slower, cost.flops, cost.usd * slower)

    def billed(self, proposal: Proposal, outcome: dict[str, Any], seconds: float) -> Trial:
        """The record of a proposal that ended so, after it held a slot for `seconds`; lost attempts are added."""
        lost = self.purse.lost.get(proposal.id, Spending())
        seconds += lost.seconds
        return Trial(
            id=proposal.id,
            parent=proposal.parent,
            run=proposal.run,
            horizon=proposal.horizon,
            start=proposal.start,
            tags=proposal.tags,
            seconds=seconds,
            usd=seconds / 3600 * self.problem.cost.usd_per_hour,
            **{**outcome, "flops": outcome.get("flops", 0.0) + lost.flops},
        )

    @property
    def correction(self) -> float:
        """Median of seconds taken over seconds forecast, of the newest finished trials; 1 before the third.

        Strategies plan by the calibration alone, so that a plan does not change under way; this corrects only
        what is launched and the time left.
        """
        ratios = self.ratios()
        return statistics.median(ratios) if len(ratios) >= 3 else 1.0

    @property
    def pessimism(self) -> float:
        """By what forecasts of time are multiplied before a trial is started: what four in five trials kept to, and
        more while few are known. Who is slower still is stopped at what is held for it, or pays from what is free."""
        ratios = sorted(self.ratios())
        known = ratios[math.ceil(0.8 * len(ratios)) - 1] if ratios else 1.0
        return max(1.0, known) * (1 + 0.5 / (1 + len(ratios)))

    def ratios(self) -> list[float]:
        """Seconds taken over seconds forecast, of the newest finished trials."""
        ratios: list[float] = []
        for trial in self.trials[-NEWEST:]:
            forecast = self.problem.cost.forecast(trial.run, trial.horizon - trial.start).seconds
            if trial.status == "finished" and forecast > 0:
                ratios.append((trial.train_seconds or trial.seconds) / forecast)
        return ratios
