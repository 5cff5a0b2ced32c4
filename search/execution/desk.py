"""Which job a free slot gets, what it is billed, and when it is stopped. No Ray here: the executor says what happened,
the clock says when, so a simulation of a thousand searches runs this very code.

What may be called from another thread than the executor's (`watch`, `bills`, `cut_off`) takes the session's lock;
asking a strategy, which may take seconds, does not hold it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from search.budget import Spending
from search.execution.contract import Progress
from search.execution.pack import Pack
from search.execution.session import Session
from search.records import CUT_OFF, Proposal, Trial
from search.strategy import DONE, Done
from trainer.errors import UserError

RETRIES = 2
"""How often a trial whose worker process died is tried again before it is called failed."""
STOP_SECONDS = 0.25
"""From the decision to end a process to its end, billed."""
MARGIN = 0.75
"""Seconds before what is held for a job is used up at which it is stopped, the pause between two looks included."""
HOPELESS = 0.8
"""A trial that needs more than what is left over this is stopped at once: its speed is not known to a hair."""
REACHED = "the budget was reached while trials ran"


@dataclass
class Desk:
    session: Session
    record: Callable[[Trial], None]
    """Puts an ended trial where it survives; a UserError ends the search."""
    slots: int
    on_trial: Callable[[Trial], None] = lambda _: None
    on_progress: Callable[[Proposal, Progress], None] = lambda *_: None
    clock: Callable[[], float] = time.monotonic
    packs: dict[str, Pack] = field(default_factory=dict[str, Pack])
    """By the executor's name of the job."""
    waiting: list[Proposal] = field(default_factory=list[Proposal])
    """Admitted by the session, for a slot that is free."""
    deaths: Counter[str] = field(default_factory=Counter[str])
    """Worker processes that died, by proposal."""
    retried: Counter[str] = field(default_factory=Counter[str])
    spare: int = 0
    """Warm processes that wait for a job."""
    error: str = ""
    """Ends the search; what runs is given up."""

    def __post_init__(self) -> None:
        self._launch = self.session.launch_seconds
        self._number = len(self.session.trials)  # names the bills of this session of the search

    # --- what the executor asks ---------------------------------------------------------------------------------

    def take(self, job: str) -> list[Proposal] | Done | None:
        """Proposals to be trained together as `job`; None: not now; DONE: no more, ever."""
        if not self._ask():
            return DONE
        if not self.waiting or len(self.packs) >= self.slots:
            return None
        with self.session.lock:
            timing = self.session.problem.cost.timing(self.waiting[0].run)
            proposals, now = self._next(timing.pack if timing else 1), self.clock()
            self.packs[job] = Pack({p.id: p for p in proposals}, now, now, warm=self.spare > 0)
            self.spare = max(0, self.spare - 1)
        return proposals

    def _ask(self) -> bool:
        """Have proposals in `waiting` where there are some; False when there will be none any more."""
        if not self.waiting and not self.error and self.free:
            most = max((t.pack for t in self.session.problem.cost.timings.values()), default=1)
            up = sum(pack.warm for pack in self.packs.values()) + self.spare
            self.session.launch_seconds = self._launch if up < self.slots else 0.0
            try:
                answer = self.session.next(self.free * most)
            except UserError as error:  # the executor would wrap it in a traceback
                self.error = str(error)
            else:
                if isinstance(answer, Done):
                    return False
                self.waiting = list(answer)
        return not self.error

    @property
    def free(self) -> int:
        """Slots that train nothing."""
        return self.slots - sum(bool(pack.proposals) for pack in self.packs.values())

    def _next(self, most: int) -> list[Proposal]:
        """The next proposal and those that can be trained with it, at most so many, divided among the free slots. Whose
        worker died is trained alone: the memory may have been too small for more."""
        from search.execution.worker import together  # torch: not where only a plan is wanted

        first = self.waiting[0]
        alike = [p for p in self.waiting if together(first, p) and not self.deaths[p.id]]
        taken = [first] if self.deaths[first.id] else alike[: min(most, -(-len(alike) // max(1, self.free)))]
        self.waiting = [p for p in self.waiting if p not in taken]
        return taken

    def news(self, job: str, news: Mapping[str, Progress]) -> bool:
        """What a job reports; whether to end it: where nothing is left to do in it and something elsewhere, or where no
        money is left for it."""
        with self.session.lock:
            pack, now = self.packs[job], self.clock()
            if pack.stopped:
                return True
            pack.warm = True
            self._note(pack, news, now)
            if pack.proposals:
                if self.error or (self._covered(pack, now) and not self._hopeless(pack, now)):
                    return bool(self.error)
                self._stop(pack, now, REACHED)
                return True
        if not self._ask() or (self.session.over and not self.waiting):
            return True
        ready = len(self.packs) == self.slots and not any(p.starting(now) for p in self.packs.values())
        return ready and bool(self.waiting)

    def gone(self, job: str, died: bool) -> None:
        """A job has ended; `died`: its process did, unasked."""
        with self.session.lock:
            pack, now = self.packs.pop(job), self.clock()
            self.spare += not died
            if pack.stopped or not pack.proposals:
                return
            costs = {name: self._attempt(pack, name, now) for name in pack.proposals}
            for name, proposal in list(pack.proposals.items()):
                del pack.proposals[name]
                if self.error:  # not its own: it is billed as cut off, and a resumed search runs it again
                    self.session.purse.lose(name, costs[name])
                    self.waiting.append(proposal)
                    continue
                self.deaths[name] += 1
                may = self.deaths[name] <= RETRIES
                self.retried[name] += self._again(proposal, costs[name], "its worker process died", may)

    # --- what is watched from another thread --------------------------------------------------------------------

    def watch(self) -> list[str]:
        """Jobs whose process is to be ended now: nothing is held for them any more, and nothing is free. They are
        recorded already."""
        late = list[str]()
        with self.session.lock:
            now = self.clock()
            for job, pack in self.packs.items():
                if pack.proposals and not pack.stopped and not self._covered(pack, now):
                    self._stop(pack, now + STOP_SECONDS, REACHED)
                    late.append(job)
        return late

    def bills(self, ahead: float = 0.0) -> list[Trial]:
        """What runs now as if it were cut off in `ahead` seconds: no trials, only their cost."""
        with self.session.lock:
            now = self.clock() + ahead
            costs = {
                name: (proposal, self._attempt(pack, name, now))
                for pack in self.packs.values()
                for name, proposal in pack.proposals.items()
            }
            costs |= {p.id: (p, Spending()) for p in self.waiting if p.id in self.session.purse.lost}
            return [self._cut_off(proposal, cost) for proposal, cost in costs.values()]

    def cut_off(self) -> None:
        """Record what ran as cut off. It will be proposed again when the search goes on."""
        with self.session.lock:
            for bill in self.bills(STOP_SECONDS):
                self.record(bill)
                self.session.trials.append(bill)
            self.packs.clear()
            self.waiting.clear()

    # --- the books ----------------------------------------------------------------------------------------------

    def _covered(self, pack: Pack, now: float) -> bool:
        """Whether enough is held for a job to go on until the next look; what is free may be added."""
        purse, names = self.session.purse, list(pack.proposals)

        def short() -> float:
            return pack.elapsed(now) + MARGIN - sum(purse.holds[name].seconds for name in names)

        if short() > 0 and purse.free_seconds() < float("inf"):
            purse.extend(names[0], short() + max(1.0, 0.1 * pack.elapsed(now)))
            return short() <= 0
        return True

    def _hopeless(self, pack: Pack, now: float) -> bool:
        """Whether a job cannot end, its evaluation included, though all that is left were spent on it."""
        session = self.session
        left = session.purse.budget.seconds_left(
            sum(session.purse.lost.values(), session.purse.spent), session.problem.cost.usd_per_hour
        )
        left -= sum(other.elapsed(now) for other in self.packs.values())
        return HOPELESS * pack.needed() > left

    def _note(self, pack: Pack, news: Mapping[str, Progress], now: float) -> None:
        pack.bill(now)
        pack.newest |= news
        for name, progress in news.items():
            if name not in pack.proposals:
                continue
            if progress.orphan:
                proposal, cost = pack.proposals[name], self._attempt(pack, name, now)
                del pack.proposals[name]
                again = replace(proposal, parent=None, start=0, tags={**proposal.tags, "again": proposal.parent})
                self._again(again, cost, progress.error, True)
            elif progress.ended:
                self._end(pack, name, progress)
            else:
                self.on_progress(pack.proposals[name], progress)

    def _attempt(self, pack: Pack, name: str, now: float) -> Spending:
        """What an attempt that comes to nothing has cost until `now`."""
        proposal, share = pack.proposals[name], max(0.0, now - pack.since) / len(pack.proposals)
        forecast = self.session.problem.cost.forecast(proposal.run, proposal.train_tokens)
        return self.session.purse.bill(pack.seconds[name] + share, pack.flops(name, now, forecast))

    def _again(self, proposal: Proposal, cost: Spending, why: str, may: bool) -> bool:
        """Try once more where it may and the money is there; whether that is done."""
        session = self.session
        session.purse.lose(proposal.id, cost)
        if may and session.over != REACHED and session.purse.hold(proposal.id, session.upper(proposal)):
            session.running[proposal.id] = proposal
            self.waiting.insert(0, proposal)
            return True
        why += ", and the budget does not hold another try" if may else ""
        self._file(proposal, Progress(status="failed", error=why), 0.0)
        return False

    def _stop(self, pack: Pack, now: float, why: str) -> None:
        """End a job for want of money, and start nothing more."""
        self.session.over = self.session.over or why
        for proposal in self.waiting:
            if proposal.id in self.session.purse.lost:
                self._file(proposal, Progress(status="failed", error=why), 0.0)
            else:
                self.session.give_back(proposal)
        self.waiting.clear()
        costs = {name: self._attempt(pack, name, now) for name in pack.proposals}
        pack.bill(now)
        for name, cost in costs.items():
            progress = pack.newest.get(name, Progress())
            self._end(pack, name, replace(progress, status="failed", error="the budget was reached", flops=cost.flops))
        pack.stopped = True

    def _end(self, pack: Pack, name: str, progress: Progress) -> None:
        proposal = pack.proposals.pop(name)
        self.session.purse.pool(name, list(pack.proposals), pack.seconds[name])
        if progress.fatal:
            self.error = self.error or progress.error
            pack.proposals[name] = proposal  # not recorded but as cut off, so a resumed search runs it again
            return
        self._file(proposal, progress, pack.seconds[name])

    def _file(self, proposal: Proposal, progress: Progress, seconds: float) -> None:
        outcome: dict[str, Any] = {**progress.outcome(), "retries": self.retried[proposal.id]}
        trial = self.session.billed(proposal, outcome, seconds)
        try:
            self.record(trial)
        except UserError as problem:
            self.error = self.error or str(problem)
            self.session.purse.lost[proposal.id] = trial.spending
            self.waiting.append(proposal)
            return
        self.session.finish(trial)
        self.on_trial(trial)

    def _cut_off(self, proposal: Proposal, cost: Spending) -> Trial:
        trial = self.session.billed(proposal, {"status": "pruned", "flops": cost.flops}, cost.seconds)
        tags = {"stage": CUT_OFF, "of": proposal.id}
        return replace(trial, id=f"{proposal.id} cut off {self._number}", parent=None, tags=tags)
