"""Runs a session's proposals through one tune.Tuner. The only file that imports Ray Tune.

Tune sees each proposal as a trial of its own and uses no scheduler: who goes on is the strategy's decision.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # these four are read when Tune is imported
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the history is ours, Tune's state is not used
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from search.records import Proposal, Trial  # noqa: E402
from search.session import Session  # noqa: E402
from search.store import SearchDir  # noqa: E402
from search.strategy import Done  # noqa: E402
from search.worker import Job, Progress, Worker, calibrate_here  # noqa: E402
from trainer.calibrate import Calibration  # noqa: E402
from trainer.config import RunConfig  # noqa: E402
from trainer.data import Prepared  # noqa: E402
from trainer.errors import UserError  # noqa: E402

POLL_SECONDS = 1.0  # a trial reports its progress about this often


@contextmanager
def ray_session(slots: int, gpu: bool) -> Iterator[None]:
    """Ray for the life of the block: the cluster in RAY_ADDRESS when there is one, else a local one, quiet and
    on loopback, gone afterwards."""
    quiet: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "error",
        "configure_logging": True,
    }
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        ray.init(
            address="local",
            num_cpus=slots,
            num_gpus=slots if gpu else 0,
            include_dashboard=False,
            object_store_memory=128 * 2**20,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()


def resources(gpu: bool) -> dict[str, float]:
    """Of one slot."""
    return {"CPU": 1, "GPU": 1} if gpu else {"CPU": 1}


def calibrate_shapes(runs: list[RunConfig], data: Prepared, gpu: bool, threads: int) -> list[Calibration]:
    """Twenty steps of each run, one after the other, where trials will run."""
    remote = ray.remote(num_cpus=1, num_gpus=1 if gpu else 0)(calibrate_here)
    return [ray.get(remote.remote(run, data, threads)) for run in runs]


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
    with tempfile.TemporaryDirectory(prefix="hpt-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(_Trainable, resources(gpu)),
            tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if searcher.error:
        raise UserError(searcher.error)
    return bool(session.over) and not session.running


class _Trainable(tune.Trainable):
    """A warm process: trains one proposal after another."""

    def setup(self, config: dict[str, Any]) -> None:
        self.worker = Worker(Job(**config["job"]))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        progress = self.worker.advance(POLL_SECONDS)
        return {"progress": progress, "tokens": progress.tokens, "done": progress.ended}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: trunks are saved by the worker, where the strategy asked for one."""


class _AskTell(Searcher):
    """Tune asks for trials and tells of results here; both are passed on to the session."""

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
        super().__init__(metric="tokens", mode="max")  # Tune wants one; it decides nothing
        self.session, self.directory, self.data = session, directory, data
        self.slots, self.threads = slots, threads
        self.on_progress, self.on_trial = on_progress, on_trial
        self.proposals: dict[str, tuple[Proposal, float]] = {}  # by Tune's id: what, and when it was launched
        self.error = ""

    def suggest(self, trial_id: str) -> Any:
        """A configuration, None (wait) or FINISHED."""
        if self.error:
            return Searcher.FINISHED
        if len(self.session.running) >= self.slots:
            return None
        try:
            answer = self.session.next(1)
        except UserError as error:  # Tune would wrap it in a traceback
            self.error = str(error)
            return Searcher.FINISHED
        if isinstance(answer, Done):
            return Searcher.FINISHED
        if not answer:
            return None
        proposal = answer[0]
        self.proposals[trial_id] = proposal, time.monotonic()
        job = {
            "proposal": proposal,
            "data": self.data,
            "checkpoints": str(self.directory.checkpoints),
            "threads": self.threads,
            "seconds_limit": self.session.seconds_limit(proposal),
        }
        return {"job": job}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.on_progress(self.proposals[trial_id][0], result["progress"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        proposal, launched = self.proposals.pop(trial_id)
        progress = (result or {}).get("progress")
        if progress is None or error or not progress.ended:
            progress = Progress(status="failed", error="its worker process died")
        if progress.fatal:
            self.error = self.error or progress.error
            return  # not recorded, so a resumed search runs it again
        trial = self.session.billed(proposal, progress.outcome(), time.monotonic() - launched)
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
