"""Runs a session's proposals through one tune.Tuner. The only file that imports Ray Tune.

Tune sees each proposal as a trial of its own and uses no scheduler: who goes on is the strategy's decision.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # these five are read when Tune is imported
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the history is ours, Tune's state is not used
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # search.execution.watch has its own

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.exceptions import GetTimeoutError, RayTaskError  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from search.budget import Timing  # noqa: E402
from search.execution.contract import Job, Progress, Trainer, Work  # noqa: E402
from search.execution.desk import Desk  # noqa: E402
from search.execution.external.measure import measure  # noqa: E402
from search.execution.session import Session  # noqa: E402
from search.execution.store import SearchDir  # noqa: E402
from search.execution.trunks import Trunks  # noqa: E402
from search.execution.watch import AHEAD_SECONDS, Interrupted, Watch  # noqa: E402
from search.execution.worker import Own, calibrate_here  # noqa: E402
from search.records import Proposal, Trial  # noqa: E402
from search.strategy import Done  # noqa: E402
from trainer.cohorts.calibrate import Calibration  # noqa: E402
from trainer.config import RunConfig  # noqa: E402
from trainer.data import Prepared  # noqa: E402
from trainer.errors import UserError  # noqa: E402
from trainer.evals.suite import Suite  # noqa: E402
from trainer.local_ray import RayHealth  # noqa: E402

# Tune's snapshot of its own state is not used, and copying it can race with its renaming: that is nobody's business.
# Which trials failed, and why, is said by hpt.
for name in ("ray.tune.execution.experiment_state", "ray.tune.execution.tune_controller", "ray.tune.tune"):
    logging.getLogger(name).setLevel(logging.CRITICAL)

POLL_SECONDS = 1.0  # a trial reports its progress about this often
IDLE_SECONDS = 0.05  # and asks this often for its next job


def resources(gpu: int) -> dict[str, float]:
    """Of one slot with so many GPUs."""
    return {"CPU": 1, "GPU": gpu} if gpu else {"CPU": 1}


def calibrate_shapes(
    runs: list[RunConfig],
    data: Prepared,
    gpu: int,
    threads: int,
    pack: int | None,
    most_seconds: float = math.inf,
    suite: Suite | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[list[Calibration], float, float]:
    """Twenty steps of each run, one after the other, where trials will run; packs as trainer.cohorts has them.

    Also the seconds that a worker took to start (its process, its imports and what is cold at first), and those that it
    all took; `say` hears which one it is at; UserError where that would be more than `most_seconds`.
    """
    remote = ray.remote(num_cpus=1, num_gpus=gpu)(calibrate_here)
    began, found, launch = time.monotonic(), list[Calibration](), 0.0
    for number, run in enumerate(runs, start=1):
        say(f"timing shape {number} of {len(runs)}")
        task = remote.remote(run, data, threads, pack, suite)
        left = began + most_seconds - time.monotonic()
        try:
            found.append(ray.get(task, timeout=None if left == math.inf else max(0.1, left)))
        except GetTimeoutError:
            ray.cancel(task, force=True)
            raise UserError(
                f"Timing {len(runs)} shapes alone takes more than {most_seconds:.0f} s of a slot, half of the budget: "
                "raise it, or use fewer or smaller shapes."
            ) from None
        launch = launch or time.monotonic() - began - found[0].total_seconds
    started = launch + max(0.0, found[0].first_seconds - found[0].typical_seconds)
    return found, started, time.monotonic() - began


def calibrate_trainer(
    trainer: Trainer, runs: list[RunConfig], gpu: int, threads: int, steps: tuple[int, int], most_seconds: float
) -> tuple[list[Timing], float, float]:
    """Of somebody else's trainer, where trials will run: each run's timing, and the seconds and FLOPs that it took."""
    remote = ray.remote(num_cpus=1, num_gpus=gpu)(measure)
    task = remote.remote(trainer, runs, steps, threads)
    try:
        return ray.get(task, timeout=None if most_seconds == math.inf else max(0.1, most_seconds))
    except GetTimeoutError:
        ray.cancel(task, force=True)
        raise UserError(
            f"The trainer's two runs of {steps[0]} and {steps[1]} steps alone take more than {most_seconds:.0f} s of a "
            "slot, half of the budget: raise it, lower --trainer.calibrate, or give the budget in FLOPs or runs."
        ) from None
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause)) from None
        raise


def execute(
    session: Session,
    directory: SearchDir,
    data: Prepared | None,
    *,
    slots: int,
    gpu: int,
    threads: int,
    checkpoints: str = "",
    on_progress: Callable[[Proposal, Progress], None],
    on_trial: Callable[[Trial], None],
    trainer: Trainer | None = None,
    last_words: Callable[[str], None] = print,
    stopping: Callable[[], None] = lambda: None,
    suite: Suite | None = None,
) -> bool:
    """Run the session until it is over; every ended trial is in the directory before `on_trial` hears of it.

    checkpoints: where trunks are kept; default: in the directory. Returns False when it was interrupted (Ctrl-C,
    SIGTERM, SIGHUP), of which `stopping` hears at once; then what ran is billed, given up, and will be proposed again.
    Where Ray has died or the loop does not answer, `last_words` are said and the process ends.
    """
    trunks = Trunks(checkpoints or str(directory.checkpoints))

    def ended(trial: Trial) -> None:
        _drop_checkpoints(session, trunks)
        on_trial(trial)

    desk = Desk(session, directory.append, slots, on_trial=ended, on_progress=on_progress)
    loop = _Loop(desk)
    watch = Watch(desk, directory, loop.end, RayHealth().fault, last_words, stopping)
    loop.check = watch.check
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)  # or the workers would start one after the other
    common = {
        "data": data,
        "checkpoints": trunks.address,
        "threads": threads,
        "trainer": trainer or Own(),
        "suite": suite,
    }
    scratch = tempfile.mkdtemp(prefix="hpt-tune-")
    try:
        with watch.running():
            tune.Tuner(
                tune.with_resources(_Trainable, resources(gpu)),
                tune_config=tune.TuneConfig(
                    search_alg=_AskTell(desk, directory, common), num_samples=-1, reuse_actors=True
                ),
                run_config=tune.RunConfig(
                    storage_path=scratch,
                    verbose=0,
                    stop=loop.stop,  # type: ignore[arg-type]
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    callbacks=[loop],
                ),
            ).fit()
    except Interrupted:
        pass
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if watch.asked or desk.error:
        try:
            desk.cut_off()
        except UserError as error:  # a full disk: the journal has it
            raise UserError(desk.error or str(error)) from None
    directory.journal([])
    if desk.error:
        raise UserError(desk.error)
    return not watch.asked and bool(session.over) and not session.running


def _drop_checkpoints(session: Session, trunks: Trunks) -> None:
    """Delete the trunks that nobody can continue any more."""
    if not any(trial.trunk is not None for trial in session.trials):
        return
    kept = session.strategy.keeps(session.history)
    for trial in session.trials:
        if trial.trunk is not None and trial.id not in kept:
            trunks.delete(trial.id)


class _Loop(tune.Callback):
    """Looks in between two events of Tune's loop, and knows the processes of its trials."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.check: Callable[[], None] = lambda: None
        self.trials: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles what it is given, and goes on with the original

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.trials = trials
        self.check()

    def stop(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Tune brings every result here first and asks whether to end the job."""
        return self.desk.news(trial_id, dict(result["news"]))

    def end(self, job: str) -> None:
        """Kill the process of a job, on whatever node it is."""
        for trial in self.trials[::-1]:
            if trial.trial_id == job and (actor := trial.temporary_state.ray_actor) is not None:
                ray.kill(actor)
                return


class _Trainable(tune.Trainable):
    """A warm process: trains one job after another. It is the driver that ends a job (`_AskTell.stop`)."""

    worker: Work | None = None

    def setup(self, config: dict[str, Any]) -> None:
        self.cleanup()
        job = dict(config["job"])
        trainer: Trainer = job.pop("trainer")
        self.worker = trainer.begin(Job(**job))

    def cleanup(self) -> None:
        """What the job before left running, where it was ended for want of money."""
        if self.worker is not None:
            self.worker.close()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        assert self.worker is not None
        if self.worker.ended:
            time.sleep(IDLE_SECONDS)
        return {"news": list(self.worker.advance(POLL_SECONDS).items())}  # a dict would be flattened by Tune

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: trunks are saved by the worker, where the strategy asked for one."""


class _AskTell(Searcher):
    """Tune asks for jobs and tells of their ends here; both are passed on to the desk.

    Tune ends the process of a trial that ends while no other waits, all but one; and it gives a process that is free to
    a trial whose own is starting, and ends that one. With trials shorter than a process takes to start, a single slot
    would do all the work. So a job ends when its slot can go on at once and all others are up, and not before.
    """

    def __init__(self, desk: Desk, directory: SearchDir, common: dict[str, Any]) -> None:
        super().__init__(metric="training_iteration", mode="max")  # Tune wants one; it decides nothing
        self.desk, self.directory, self.common = desk, directory, common

    def suggest(self, trial_id: str) -> Any:
        """A configuration, None (wait) or FINISHED."""
        proposals = self.desk.take(trial_id)
        if isinstance(proposals, Done):
            return Searcher.FINISHED
        if proposals is None:
            return None
        try:
            self.directory.journal(self.desk.bills(AHEAD_SECONDS))
        except UserError as error:  # a full disk: nothing is begun that could not be billed
            self.desk.error = self.desk.error or str(error)
        timing = self.desk.session.problem.cost.timing(proposals[0].run)
        return {"job": {**self.common, "proposals": tuple(proposals), "compile": bool(timing and timing.compiled)}}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.desk.gone(trial_id, died=error)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher to restore it; we restore from the history instead

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the history in the search directory is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see save."""
