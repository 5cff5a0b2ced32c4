"""What is timed before the first trial of a search, in Ray or in this process, and its bill."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hpt.console.beginning import fingerprint
from hpt.console.settings import to_json
from hpt.console.setup import Setup, make_problem
from search.budget import Spending, Timing, shape_key
from search.execution.external.command import Command
from search.records import History, Trial
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig, to_dict
from trainer.errors import UserError

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.cohorts.calibrate import Calibration

FREE = Spending()


@dataclass(frozen=True)
class Where:
    """How steps are timed; the last argument of each is the most seconds that it may take."""

    shapes: Callable[[list[RunConfig], float], tuple[list[Calibration], float, float]]
    """Of hpt's own trainer: each run's figures; seconds that a worker takes to start; seconds in all."""
    trainer: Callable[[Command, list[RunConfig], float], tuple[list[Timing], float, float]]
    """Of somebody else's: each run's timing; seconds and FLOPs in all."""


def in_ray(setup: Setup, say: Callable[[str], None]) -> Where:
    from search.execution.tune import calibrate_shapes, calibrate_trainer

    slots, options = setup.slots, setup.config.trainer_options

    def shapes(runs: list[RunConfig], most: float) -> tuple[list[Calibration], float, float]:
        assert setup.data is not None
        return calibrate_shapes(
            runs, setup.data, slots.gpu, slots.threads, setup.config.pack, most, setup.suite, say
        )  # fmt: skip

    return Where(
        shapes,
        lambda trainer, runs, most: calibrate_trainer(
            trainer, runs, slots.gpu, slots.threads, options.calibrate, most
        ),
    )  # fmt: skip


def in_this_process(setup: Setup) -> Where:
    from search.execution.external.measure import measure
    from search.execution.worker import calibrate_here

    def shapes(runs: list[RunConfig], _: float) -> tuple[list[Calibration], float, float]:
        assert setup.data is not None
        found = [calibrate_here(run, setup.data, setup.slots.threads, 1, None) for run in runs]
        return found, 0.0, sum(c.total_seconds for c in found)

    steps = setup.config.trainer_options.calibrate
    return Where(shapes, lambda trainer, runs, _: measure(trainer, runs, steps, setup.slots.threads))


def timed(setup: Setup, where: Where) -> tuple[dict[str, Timing], Trial]:
    """By shape what its steps take, and the record of what finding out cost. Of somebody else's trainer two short runs
    of the cheapest shape and one of the target's, where the budget is in time or money; else nothing."""
    free, cap = make_problem(setup, {}), setup.cap
    wanted = setup.strategy.shapes(History(problem=free)) or [setup.target]
    if setup.target.init_from and any(run.model != setup.target.model for run in wanted):
        raise UserError(
            f"--strategy {setup.config.strategy} trains smaller models, and a pretrained one has no smaller copy to be "
            "fine-tuned: use hyperband, early-stopping, greedy, data-scaling or grid."
        )
    runs = list({run.model: run for run in wanted}.values())  # another batch is so many more micro-batches
    most, timings = cap.seconds_left(Spending(), free.cost.usd_per_hour) / 2, dict[str, Timing]()
    seconds = flops = launch = 0.0
    if setup.trainer is None:
        measured, launch, seconds = where.shapes(runs, most)
        flops = sum(run_flops(run, c.tokens) for run, c in zip(runs, measured, strict=True))
        timings = {
            shape_key(run): Timing(step_seconds=c.typical_seconds, eval_seconds=c.eval_seconds,
                                   startup_seconds=c.startup_seconds, pack=c.pack, compiled=c.compiled)
            for run, c in zip(runs, measured, strict=True)
        }  # fmt: skip
    elif cap.usd is not None or cap.hours is not None:
        runs = _foreign(setup.trainer, runs, setup.target)
        found, seconds, flops = where.trainer(setup.trainer, runs, most)
        timings = {shape_key(run): timing for run, timing in zip(runs, found, strict=True)}
    bill = Spending(seconds, flops, seconds / 3600 * free.cost.usd_per_hour)
    return timings, timing_record(runs[0], bill, launch)


def _foreign(trainer: Command, runs: list[RunConfig], target: RunConfig) -> list[RunConfig]:
    """Those of somebody else's trainer that are timed: the cheapest shape, and the target's."""
    cheapest = min(runs, key=run_flops)
    return [cheapest, *([target] if trainer.can.sizes and cheapest.model != target.model else [])]


def timing_record(run: RunConfig, bill: Spending = FREE, launch: float = 0.0) -> Trial:
    """The first record of a history: what measuring the steps cost, and what a worker takes to start."""
    return Trial(
        id="calibration",
        run=replace(run, lr=1e-6),
        horizon=run.batch,
        status="pruned",
        seconds=bill.seconds,
        usd=bill.usd,
        flops=bill.flops,
        tags={"stage": "calibration", "launch_seconds": round(launch, 2)},
    )


def document_of(setup: Setup, timings: dict[str, Timing], record: Trial) -> dict[str, Any]:
    """config.json of a new search."""
    return {
        "id": uuid.uuid4().hex,
        "search": to_json(setup.config),
        "target": to_dict(setup.target),
        "data": fingerprint(setup.data),
        "timings": {k: to_dict(v) for k, v in timings.items()},
        "launch_seconds": record.tags["launch_seconds"],
        "calibration": record.to_json(),
    }
