"""A machine without time: the executor's desk with slots, worker processes and faults on a clock that jumps.

What really happened is counted beside the books: seconds that slots were held, FLOPs that were computed.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

from worlds import World

from search.budget import Spending
from search.execution.contract import Progress
from search.execution.desk import MARGIN, STOP_SECONDS, Desk
from search.execution.session import Session
from search.execution.watch import AHEAD_SECONDS, JOURNAL_SECONDS, LOOK_SECONDS
from search.records import Proposal, Trial
from search.strategy import Done


@dataclass
class Job:
    proposals: list[Proposal]
    began: float
    up: float
    """When its process is up."""
    seconds: dict[str, float]
    """That each takes in truth, of its own share."""
    dies: float | None = None
    done: float = 0.0
    """Share of its training."""


@dataclass
class Machine:
    """Runs one session of a search until it is over or cut short."""

    session: Session
    rng: random.Random
    slots: int
    slower: float
    """Truth over forecast, at most; each trial draws its own between 1 and this."""
    launch: float
    """Seconds that a process takes to start, in truth."""
    deaths: float = 0.0
    """Chance of a worker process to die in a job."""
    broken: float = 0.0
    """Chance of a trial to fail, of a parent's checkpoint to be damaged, of a warm process to be ended by Tune."""
    world: World = field(default_factory=World)
    now: float = 0.0
    truth: Spending = Spending()
    jobs: dict[str, Job] = field(default_factory=dict)
    events: list[tuple[float, int, str, str]] = field(default_factory=list)
    journal: list[Trial] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.desk = Desk(self.session, lambda trial: None, self.slots, clock=lambda: self.now)
        self.warm = 0

    def run(self, until: float = float("inf")) -> bool:
        """Whether it came to its end before `until`; then what runs is left as it is."""
        over = self._take()
        while self.events or not over:
            watched = self._watched()
            at = min(self.events[0][0] if self.events else float("inf"), watched)
            if at >= until:
                self.now = until
                return False
            if at == float("inf"):
                raise RuntimeError("everybody waits")
            self.now = max(self.now, at)
            if watched <= at:
                self._watch()
            else:
                _, _, kind, name = heapq.heappop(self.events)
                if name in self.jobs:
                    self._die(name) if kind == "dies" else self._report(name)
            self._idle()
            over = self._take()
        return True

    def _push(self, at: float, kind: str, name: str) -> None:
        self.count += 1
        heapq.heappush(self.events, (at, self.count, kind, name))

    def _take(self) -> bool:
        while True:
            self.count += 1
            name = f"job-{self.count}"
            got = self.desk.take(name)
            if isinstance(got, Done) or got is None:
                return isinstance(got, Done)
            self.journal = self.desk.bills(AHEAD_SECONDS)
            cold = not self.warm or self.rng.random() < self.broken
            self.warm = max(0, self.warm - 1)
            forecasts = {p.id: self.session.problem.cost.forecast(p.run, p.train_tokens) for p in got}
            factor = self.rng.uniform(1.0, self.slower)
            seconds = {n: f.seconds * factor * self.rng.uniform(0.95, 1.0) for n, f in forecasts.items()}
            job = Job(got, self.now, self.now + (self.launch if cold else 0.0), seconds)
            self.jobs[name] = job
            if self.rng.random() < self.deaths:
                job.dies = self.rng.uniform(self.now, job.up + sum(seconds.values()))
                self._push(job.dies, "dies", name)
            self._next_report(name)

    def _next_report(self, name: str) -> None:
        """About every second, or ten steps; the last tenth is the evaluation, in which nothing is heard."""
        job = self.jobs[name]
        whole = max(1e-9, sum(job.seconds.values()))
        step = max(1.0, whole * self.rng.uniform(0.02, 0.3)) / whole
        share = 1.0 if job.done >= 0.9 else min(0.9, job.done + step)
        self._push(max(self.now, job.up) + (share - job.done) * whole, "report", name)
        job.done = share

    def _progress(self, job: Job, p: Proposal, share: float) -> Progress:
        flops = self.session.problem.cost.forecast(p.run, p.train_tokens).flops
        return Progress(
            tokens=p.start + round(min(1.0, share / 0.9) * p.train_tokens), train_seconds=share * job.seconds[p.id],
            flops=share * flops,
        )  # fmt: skip

    def _report(self, name: str) -> None:
        job, news = self.jobs[name], dict[str, Progress]()
        for p in list(job.proposals):
            found = self._progress(job, p, job.done)
            loss = self.world.loss(p.run, p.horizon)
            if p.parent and job.done < 0.9 and self.rng.random() < self.broken:
                found = Progress(status="failed", orphan=True, error="damaged")
            elif self.rng.random() < self.broken / 4:
                found = Progress(**{**vars(found), "status": "failed", "error": "the world said so"})
            elif loss is None:
                found = Progress(**{**vars(found), "status": "diverged"})
            elif job.done >= 1.0:
                trunk = round(0.8 * p.horizon / p.run.batch) * p.run.batch if p.keep else None
                found = Progress(**{**vars(found), "status": "finished", "loss": loss, "trunk": trunk})
            news[p.id] = found
            if found.ended:
                job.proposals.remove(p)
                self.truth += Spending(0.0, found.flops, 0.0)
        if not job.proposals:
            self._held(job, self.now)
        if self.desk.news(name, news):
            self._ended(name, died=False)
        elif job.proposals:
            self._next_report(name)

    def _held(self, job: Job, until: float) -> None:
        self.truth += self.session.purse.bill(until - job.began)

    def _ended(self, name: str, died: bool) -> None:
        job = self.jobs.pop(name)
        self._given_up(job, self.now)
        self.warm += not died
        self.desk.gone(name, died)

    def _given_up(self, job: Job, until: float) -> None:
        """What was computed of those that have not ended."""
        if not job.proposals:
            return
        self._held(job, until)
        whole = sum(job.seconds.values())
        share = min(1.0, max(0.0, until - job.up) / max(1e-9, whole))
        for p in job.proposals:
            flops = self.session.problem.cost.forecast(p.run, p.train_tokens).flops
            self.truth += Spending(0.0, share * flops, 0.0)

    def _die(self, name: str) -> None:
        if self.jobs[name].proposals:
            self._ended(name, died=True)

    def _idle(self) -> None:
        for name in [name for name, job in self.jobs.items() if not job.proposals]:
            if self.desk.news(name, {}):
                self._ended(name, died=False)

    def _watched(self) -> float:
        """When the watch will next find something: up to LOOK_SECONDS after what is held for a job is used up."""
        times = [
            pack.since + sum(self.session.purse.holds[n].seconds - pack.seconds[n] for n in pack.proposals) - MARGIN
            for pack in self.desk.packs.values()
            if pack.proposals
        ]
        limited = self.session.purse.free_seconds() < float("inf")
        return max(self.now, min(times) + self.rng.uniform(1e-3, LOOK_SECONDS)) if times and limited else float("inf")

    def _watch(self) -> None:
        for name in self.desk.watch():
            job = self.jobs.pop(name)
            self._given_up(job, self.now + self.rng.uniform(0, STOP_SECONDS))
            self.desk.gone(name, died=True)

    # --- cut short ----------------------------------------------------------------------------------------------

    def interrupt(self) -> list[Trial]:
        """Ctrl-C: the history afterwards."""
        self._all_given_up(STOP_SECONDS)
        self.desk.cut_off()
        return self.session.trials

    def kill(self) -> tuple[list[Trial], list[Trial]]:
        """kill -9 of the driver: (history, journal); workers follow within a second."""
        self._all_given_up(1.0)
        return self.session.trials, self.journal

    def _all_given_up(self, within: float) -> None:
        for job in self.jobs.values():
            self._given_up(job, self.now + self.rng.uniform(0, within))

    def last_journal(self, kill_at: float) -> bool:
        """Runs to the last journal before a kill, and writes it."""
        ended = self.run(until=max(self.now, kill_at - self.rng.uniform(0, JOURNAL_SECONDS + LOOK_SECONDS)))
        self.journal = self.desk.bills(AHEAD_SECONDS)
        return ended
