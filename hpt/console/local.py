"""A search in this process, without Ray: what `hpt.find_lr` runs."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console

from hpt.console.beginning import fingerprint
from hpt.console.settings import SearchConfig, Setup, Slots, make_problem, to_json
from hpt.console.trainers import build, check_strategy
from search.budget import Spending, Timing, shape_key
from search.execution.alone import run_alone
from search.execution.external.command import Command
from search.execution.external.function import given
from search.execution.external.measure import measure
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import History, Trial
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig, to_dict
from trainer.data import prepare
from trainer.devices import usable_cpus
from trainer.errors import UserError
from trainer.inputs import check_data

FREE = Spending()


def make(config: SearchConfig, directory: SearchDir, train: Callable[[Any, Any], Any] | None) -> Setup:
    """A search made ready. train: a function to be the trainer; None: what the configuration says."""
    strategy, target, options = config.build_strategy(), config.build_target(), config.trainer_options
    if train is None:
        trainer, name = build(config.trainer, options, directory.path), config.trainer
    else:
        name = getattr(train, "__name__", "train")
        directory.path.mkdir(parents=True, exist_ok=True)
        trainer = given(
            train,
            directory.path,
            folder=str(directory.path.absolute().parent),
            trials=str((directory.path / "trials").absolute()),
            micro=options.micro,
            keep=options.keep,
            silence=options.silence,
            grace=options.grace,
        )
    check_strategy(config.strategy, strategy, name, trainer)
    if config.tasks:
        raise UserError("find_lr scores no tasks: python -m hpt.search --tasks does, with hpt's own trainer.")
    data = None
    if trainer is None:
        data = prepare(target.data, vocabulary=target.model.vocabulary)
        check_data(target, data)
    count = 1 if trainer is None else config.slots or 1
    return Setup(
        config=config,
        slots=Slots(count=count, gpu=0, threads=max(1, usable_cpus() // count), per_device=1),
        strategy=strategy,
        target=target,
        data=data,
        directory=directory,
        resumed=config.resume is not None,
        trainer=trainer,
    )


def begin(setup: Setup) -> Session:
    """The session of a new search, its shapes timed; of one that goes on, with its history."""
    directory, document = setup.directory, dict[str, Any]()
    if setup.resumed:
        document = directory.read_config("timings")
        timings = {key: Timing(**values) for key, values in document["timings"].items()}
        trials = directory.read_trials()
        trials += directory.settle(trials)
    else:
        setup.strategy.plan(History(problem=make_problem(setup, {})))  # what is hopeless is told at once
        timings, record = timed(setup)
        trials = [record]
        values = {"id": uuid.uuid4().hex, "search": to_json(setup.config), "target": to_dict(setup.target),
                  "data": fingerprint(setup.data), "timings": {k: to_dict(v) for k, v in timings.items()},
                  "launch_seconds": 0.0, "calibration": record.to_json(), "plan": []}  # fmt: skip
        directory.write_config(values)
        directory.append(record)
    seedless = setup.trainer is not None and not setup.trainer.can.seeds
    patience = None if setup.trainer is None else 3
    problem = make_problem(setup, timings)
    return Session(setup.strategy, problem, trials, cap=setup.cap, seedless=seedless, patience=patience)


def timed(setup: Setup) -> tuple[dict[str, Timing], Trial]:
    """By shape what its steps take, and the bill of finding out. Of somebody else's trainer only where the budget is in
    time or money."""
    from search.execution.worker import calibrate_here

    free, cap = make_problem(setup, {}), setup.cap
    shapes = setup.strategy.shapes(History(problem=free)) or [setup.target]
    runs, seconds, flops = list({run.model: run for run in shapes}.values()), 0.0, 0.0
    timings = dict[str, Timing]()
    if setup.trainer is None:
        assert setup.data is not None
        for run in runs:
            c = calibrate_here(run, setup.data, setup.slots.threads, 1, None)
            timings[shape_key(run)] = Timing(step_seconds=c.typical_seconds, eval_seconds=c.eval_seconds,
                                             startup_seconds=c.startup_seconds)  # fmt: skip
            seconds, flops = seconds + c.total_seconds, flops + run_flops(run, c.tokens)
    elif cap.usd is not None or cap.hours is not None:
        runs = foreign_runs(setup.trainer, runs, setup.target)
        steps = setup.config.trainer_options.calibrate
        found, seconds, flops = measure(setup.trainer, runs, steps, setup.slots.threads)
        timings = {shape_key(run): timing for run, timing in zip(runs, found, strict=True)}
    usd = seconds / 3600 * free.cost.usd_per_hour
    return timings, nothing_timed(runs[0], Spending(seconds, flops, usd))


def foreign_runs(trainer: Command, runs: list[RunConfig], target: RunConfig) -> list[RunConfig]:
    """Those of somebody else's trainer that are timed: the cheapest shape, and the target's."""
    cheapest = min(runs, key=run_flops)
    return [cheapest, *([target] if trainer.can.sizes and cheapest.model != target.model else [])]


def nothing_timed(run: RunConfig, bill: Spending = FREE) -> Trial:
    """The first record of a history: what measuring the steps cost."""
    return Trial(
        id="calibration",
        run=replace(run, lr=1e-6),
        horizon=run.batch,
        status="pruned",
        seconds=bill.seconds,
        usd=bill.usd,
        flops=bill.flops,
        tags={"stage": "calibration", "launch_seconds": 0.0},
    )


def run(setup: Setup, session: Session) -> None:
    """To its end; trials are told as they end, in a terminal or a notebook."""
    from search.execution.worker import Own

    console = Console(highlight=False, quiet=setup.config.quiet)

    def ended(trial: Trial) -> None:
        found = trial.error if trial.status == "failed" else trial.status if trial.loss is None else f"{trial.loss:.4f}"
        best = min(session.history.finished, key=lambda t: (-t.horizon, t.loss), default=None)
        words = f"; best at the longest horizon so far: lr {best.lr:.3g}" if best else ""
        console.print(f"{trial.tags.get('stage', trial.id)}, lr {trial.lr:.3g}: {found}{words}", markup=False)

    trainer = setup.trainer or Own()
    run_alone(session, setup.directory, trainer, setup.data, slots=setup.slots.count, threads=setup.slots.threads,
              on_trial=ended)  # fmt: skip
