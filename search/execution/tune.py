"""Runs a session's proposals through one tune.Tuner. The only file that imports Ray Tune.

Tune sees each proposal as a trial of its own and uses no scheduler: who goes on is the strategy's decision.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # these four are read when Tune is imported
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the history is ours, Tune's state is not used
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from search.execution.session import Session  # noqa: E402
from search.execution.store import SearchDir  # noqa: E402
from search.execution.worker import Job, Progress, Worker, calibrate_here, together  # noqa: E402
from search.records import Proposal, Trial  # noqa: E402
from search.strategy import Done  # noqa: E402
from trainer.cohorts.calibrate import Calibration  # noqa: E402
from trainer.config import RunConfig  # noqa: E402
from trainer.data import Prepared  # noqa: E402
from trainer.errors import UserError  # noqa: E402

# Tune's snapshot of its own state is not used, and copying it can race with its renaming: that is nobody's business.
# Which trials failed, and why, is said by hpt.
for name in ("ray.tune.execution.experiment_state", "ray.tune.tune"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

POLL_SECONDS = 1.0  # a trial reports its progress about this often
IDLE_SECONDS = 0.05  # and asks this often for its next job
START_SECONDS = 60.0  # longer is not waited for a process that starts: its node may be gone


def resources(gpu: bool) -> dict[str, float]:
    """Of one slot."""
    return {"CPU": 1, "GPU": 1} if gpu else {"CPU": 1}


def calibrate_shapes(
    runs: list[RunConfig], data: Prepared, gpu: bool, threads: int, pack: int | None
) -> tuple[list[Calibration], float]:
    """Twenty steps of each run, one after the other, where trials will run; packs as trainer.cohorts has them.

    Also the seconds that a worker took to start: its process, its imports and what is cold at first.
    """
    remote = ray.remote(num_cpus=1, num_gpus=1 if gpu else 0)(calibrate_here)
    began, found = time.monotonic(), list[Calibration]()
    launch = 0.0
    for run in runs:
        found.append(ray.get(remote.remote(run, data, threads, pack)))
        launch = launch or time.monotonic() - began - found[0].total_seconds
    return found, launch + max(0.0, found[0].first_seconds - found[0].typical_seconds)


def execute(
    session: Session,
    directory: SearchDir,
    data: Prepared,
    *,
    slots: int,
    gpu: bool,
    threads: int,
    on_progress: Callable[[Proposal, Progress], None],
    on_trial: Callable[[Trial], None],
) -> bool:
    """Run the session until it is over; every ended trial is in the directory before `on_trial` hears of it.

    Returns False when it was interrupted (Ctrl-C); then what ran is given up and will be proposed again.
    """
    searcher = _AskTell(session, directory, data, slots, threads, on_progress, on_trial)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)  # or the workers would start one after the other
    with tempfile.TemporaryDirectory(prefix="hpt-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(_Trainable, resources(gpu)),
            tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                stop=searcher.stop,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if searcher.error:
        raise UserError(searcher.error)
    return bool(session.over) and not session.running


class _Trainable(tune.Trainable):
    """A warm process: trains one job after another. It is the driver that ends a job (`_AskTell.stop`)."""

    def setup(self, config: dict[str, Any]) -> None:
        self.worker = Worker(Job(**config["job"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self.worker.ended:
            time.sleep(IDLE_SECONDS)
        return {"news": list(self.worker.advance(POLL_SECONDS).items())}  # a dict would be flattened by Tune

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: trunks are saved by the worker, where the strategy asked for one."""


@dataclass
class _Pack:
    """A job under way, and the bills of those in it: whoever trains shares the slot's time."""

    proposals: dict[str, Proposal]
    """Those that have not ended."""
    warm: bool = False
    """Its process is up."""
    newest: dict[str, Progress] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    since: float = field(default_factory=time.monotonic)
    longest: float = POLL_SECONDS
    """Between two results so far: when the next one may be expected."""

    @property
    def starting(self) -> bool:
        return not self.warm and time.monotonic() - self.since < START_SECONDS

    def bill(self) -> None:
        """Share out the time since the last call."""
        now = time.monotonic()
        for name in self.proposals:
            self.seconds[name] += (now - self.since) / len(self.proposals)
        self.longest, self.since = max(self.longest, now - self.since), now

    def open_seconds(self) -> float:
        """Not in any trial's record yet, up to its next result."""
        if not self.proposals:
            return 0.0
        return sum(self.seconds[n] for n in self.proposals) + time.monotonic() - self.since + self.longest


class _AskTell(Searcher):
    """Tune asks for jobs and tells of results here; both are passed on to the session, proposal by proposal.

    Tune ends the process of a trial that ends while no other waits, all but one; and it gives a process that is free to
    a trial whose own is starting, and ends that one. With trials shorter than a process takes to start, a single slot
    would do all the work. So a job ends when its slot can go on at once and all others are up, and not before.
    """

    def __init__(
        self,
        session: Session,
        directory: SearchDir,
        data: Prepared,
        slots: int,
        threads: int,
        on_progress: Callable[[Proposal, Progress], None],
        on_trial: Callable[[Trial], None],
    ) -> None:
        super().__init__(metric="training_iteration", mode="max")  # Tune wants one; it decides nothing
        self.session, self.directory, self.data = session, directory, data
        self.slots, self.threads = slots, threads
        self.on_progress, self.on_trial = on_progress, on_trial
        self.waiting: list[Proposal] = []
        """Admitted by the session, for a slot that is free."""
        self.packs: dict[str, _Pack] = {}
        """By Tune's id."""
        self.spare = 0
        """Warm processes that wait for a job."""
        self.error = ""

    def suggest(self, trial_id: str) -> Any:
        """A configuration, None (wait) or FINISHED."""
        if not self._ask():
            return Searcher.FINISHED
        if not self.waiting or len(self.packs) >= self.slots:
            return None
        timing = self.session.problem.cost.timing(self.waiting[0].run)
        proposals = self._take(timing.pack if timing else 1)
        self.packs[trial_id] = _Pack({p.id: p for p in proposals}, warm=self.spare > 0)
        self.spare = max(0, self.spare - 1)
        job = {
            "proposals": tuple(proposals),
            "data": self.data,
            "checkpoints": str(self.directory.checkpoints),
            "threads": self.threads,
            "compile": bool(timing and timing.compiled),
        }
        return {"job": job}

    def _ask(self) -> bool:
        """Have proposals in `waiting` where there are some; False when there will be none any more."""
        if not self.waiting and not self.error and self._free():
            most = max((t.pack for t in self.session.problem.cost.timings.values()), default=1)
            try:
                answer = self.session.next(self._free() * most)
            except UserError as error:  # Tune would wrap it in a traceback
                self.error = str(error)
            else:
                if isinstance(answer, Done):
                    return False
                self.waiting = answer
        return not self.error

    def _free(self) -> int:
        """Slots that train nothing."""
        return self.slots - sum(bool(pack.proposals) for pack in self.packs.values())

    def _take(self, most: int) -> list[Proposal]:
        """The next proposal and those that can be trained with it, at most so many, divided among the free slots."""
        alike = [p for p in self.waiting if together(self.waiting[0], p)]
        taken = alike[: min(most, -(-len(alike) // self._free()))]
        self.waiting = [p for p in self.waiting if p not in taken]
        return taken

    def stop(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Tune brings every result here first and asks whether to end the job: where nothing is left to do in it and
        something elsewhere, or where a cap on time or money would be passed by its next result."""
        pack = self.packs[trial_id]
        pack.warm = True
        self._note(pack, dict(result["news"]))
        if pack.proposals and self.session.exhausted(sum(pack.open_seconds() for pack in self.packs.values())):
            self.session.over = self.session.over or "the budget was reached while trials ran"
            while self.waiting:
                self.session.running.pop(self.waiting.pop().id)
            return True
        if pack.proposals:
            return False
        if not self._ask() or (self.session.over and not self.waiting):
            return True
        ready = len(self.packs) == self.slots and not any(pack.starting for pack in self.packs.values())
        return ready and bool(self.waiting)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pack = self.packs.pop(trial_id)
        self.spare += not error
        reason = "its worker process died" if error else "the budget was reached"
        for name in list(pack.proposals):
            progress = replace(pack.newest.get(name, Progress()), status="failed", error=reason)
            self._end(pack, name, progress)

    def _note(self, pack: _Pack, news: dict[str, Progress]) -> None:
        pack.bill()
        pack.newest |= news
        for name, progress in news.items():
            if name not in pack.proposals:
                continue
            if progress.ended:
                self._end(pack, name, progress)
            else:
                self.on_progress(pack.proposals[name], progress)

    def _end(self, pack: _Pack, name: str, progress: Progress) -> None:
        proposal = pack.proposals.pop(name)
        if progress.fatal:
            self.error = self.error or progress.error
            return  # not recorded, so a resumed search runs it again
        trial = self.session.billed(proposal, progress.outcome(), pack.seconds[name])
        try:
            self.directory.append(trial)
        except UserError as problem:
            self.error = self.error or str(problem)
            return
        self.session.finish(trial)
        self._drop_checkpoints()
        self.on_trial(trial)

    def _drop_checkpoints(self) -> None:
        """Delete the trunks that nobody can continue any more."""
        kept = self.session.strategy.keeps(self.session.history)
        for trial in self.session.trials:
            if trial.trunk is not None and trial.id not in kept:
                Path(self.directory.checkpoint(trial.id)).unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher to restore it; we restore from the history instead

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the history in the search directory is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see save."""
