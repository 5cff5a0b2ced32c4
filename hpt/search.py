"""`python -m hpt.search`: find the peak learning rate of a run that can be afforded only once."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from hpt.console import cli
from hpt.console.answer import conclude, search_run
from hpt.console.beginning import check_same_data, claimed, fingerprint, free_directories, read_config
from hpt.console.screen import Screen, plan_table, short
from hpt.console.settings import (
    SearchConfig,
    Setup,
    Slots,
    budgets,
    make_problem,
    to_json,
)
from hpt.tracking.mirror import Mirror
from search.budget import Spending, Timing, shape_key
from search.execution.session import Session
from search.execution.store import SearchDir
from search.execution.watch import clean_stops
from search.records import History, Problem, Trial
from search.strategy import Stage
from trainer.architecture.counts import parameters, run_flops
from trainer.config import to_dict
from trainer.data import check_enough, prepare
from trainer.errors import UserError
from trainer.evals.suite import Suite


def main(argv: Sequence[str]) -> int:
    with clean_stops():
        config, begun = read_config(argv)
        console = config.console()
        began = time.monotonic()
        setup = make_ready(config, begun, console)
        from trainer.local_ray import ray_session  # Ray takes its time to import: bad input is told before

        with console.status("starting Ray"):
            ray = ray_session(setup.slots.count, setup.slots.count if setup.slots.gpu else 0)
            ray.__enter__()
        try:
            return search(setup, console, began)
        finally:
            ray.__exit__(None, None, None)
            setup.directory.unlock()


def make_ready(config: SearchConfig, begun: SearchConfig | None, console: Console) -> Setup:
    strategy, target = config.build_strategy(), config.build_target()
    directory = SearchDir(config.resume or next(free_directories(config)))
    with console.status("preparing data") as status:
        data = prepare(target.data, vocabulary=target.model.vocabulary, say=status.update)
    check_enough(data, target.data, target.tokens)
    if begun is not None:
        check_same_data(directory.read_config().get("data", {}), fingerprint(data), directory.path)
    n = parameters(target.model)
    console.print(
        f"target [bold]{config.target}[/bold]: {short(n.total)} parameters ({short(n.non_embedding)} "
        f"non-embedding), {short(target.tokens)} tokens in {target.steps:,} steps, {run_flops(target):.3g} FLOPs"
    )
    suite = None if config.finetunes else Suite.of(config.tasks, data, config.task_limit)
    if suite is not None:
        read = suite.tokens(target)
        share = suite.flops(target, read) / run_flops(target)
        console.print(
            f"each finished trial is scored on {', '.join(suite.files)}, {config.task_limit} items of each: "
            f"{short(read)} tokens read, at the target's size {share:.2%} of a target run"
        )
    setup = Setup(
        config=config,
        slots=Slots.of(config),
        strategy=strategy,
        target=target,
        data=data,
        directory=directory,
        resumed=begun is not None,
        suite=suite,
        begun=begun,
    )
    strategy.plan(History(problem=make_problem(setup, {})))  # a budget that is hopeless in FLOPs is told at once
    return setup if config.dry_run else replace(setup, directory=claimed(config))


def search(setup: Setup, console: Console, began: float) -> int:
    config, directory = setup.config, setup.directory
    begin = continued if setup.resumed else begun
    problem, trials, document = begin(setup, console)
    launch = document["launch_seconds"]
    session = Session(setup.strategy, problem, trials, cap=setup.cap, launch_seconds=launch)
    stages = setup.strategy.plan(session.history)
    console.print(plan_table(stages, setup.slots.count, config.usd_per_hour > 0, launch))
    if config.dry_run:
        console.print("dry run: nothing was trained but the steps that were timed, nothing was written")
        total = sum((stage.cost for stage in stages), Spending())
        config.answer({"plan": list(map(planned, stages)), "cost": asdict(total)}, f"{total.flops:.3g} FLOPs")
        return 0
    if not setup.resumed:
        directory.write_config({**document, "plan": [planned(stage) for stage in stages]})
        directory.append(trials[0])
    mirror = Mirror(
        search_run(setup, document["id"]),
        lambda text: console.print(
            f"{text}: the search goes on, and python -m hpt.search --resume {directory.path} fills in what is missing",
            style="yellow",
        ),
    )
    mirror.trials(session.trials)
    completed = run_trials(setup, session, stages, mirror, console)
    if not completed:
        mirror.stop(5)
        console.print(f"interrupted; go on with: python -m hpt.search --resume {directory.path}")
        return 130
    conclude(setup, session, mirror, console, began)
    return 0


Begun = tuple[Problem, list[Trial], dict[str, Any]]
"""The problem with its cost model, the history, and config.json."""


def begun(setup: Setup, console: Console) -> Begun:
    """A new search: its shapes are timed."""
    with console.status("timing 20 steps of each shape"):
        problem, calibration = calibrated(setup)
    document = {
        "id": uuid.uuid4().hex,
        "search": to_json(setup.config),
        "target": to_dict(setup.target),
        "data": fingerprint(setup.data),
        "timings": {k: to_dict(v) for k, v in problem.cost.timings.items()},
        "launch_seconds": calibration.tags["launch_seconds"],
        "calibration": calibration.to_json(),
    }
    return problem, [calibration], document


def continued(setup: Setup, console: Console) -> Begun:
    """A search that was begun before, its history as it is on the disk. What a killed process spent is added, and the
    record of the timing where the disk was full for it."""
    directory, config = setup.directory, setup.config
    document = directory.read_config("id", "search", "target", "timings")
    trials = directory.read_trials(lambda text: console.print(text, style="yellow"))
    if not trials and "calibration" not in document:  # a directory of hpt 0.1.0, given up before its first line
        problem, trials, fresh = begun(setup, console)
        document = {**document, "timings": fresh["timings"], "launch_seconds": fresh["launch_seconds"]}
        missing = trials
    else:
        missing = [] if trials else [Trial.from_json(document["calibration"])]
        trials = [*missing, *trials]
        document.setdefault("launch_seconds", 0.0)
    if not config.dry_run:
        for trial in missing:
            directory.append(trial)
        lost = directory.settle(trials)
        trials += lost
        document["budgets"] = budgets(config)
        directory.write_config(document)
        for bill in lost:
            console.print(f"{bill.tags['of']} was cut off: {bill.seconds:.0f} s of its slot are billed", style="yellow")
    timings = {k: Timing(**v) for k, v in document["timings"].items()}
    return make_problem(setup, timings, document["launch_seconds"]), trials, document


def planned(stage: Stage) -> dict[str, Any]:
    """A stage for config.json, so that what was spent can be set beside it."""
    return {"name": stage.name, "trials": stage.trials, "tokens": stage.tokens, "cost": asdict(stage.cost)}


def calibrated(setup: Setup) -> tuple[Problem, Trial]:
    """The problem with its cost model, and the record of what measuring it cost."""
    from search.execution.tune import calibrate_shapes

    free = make_problem(setup, {})
    wanted = setup.strategy.shapes(History(problem=free)) or [setup.target]
    if setup.target.init_from and any(run.model != setup.target.model for run in wanted):
        raise UserError(
            f"--strategy {setup.config.strategy} trains smaller models, and a pretrained one has no smaller copy to be "
            "fine-tuned: use hyperband, early-stopping, greedy, data-scaling or grid."
        )
    runs = list({run.model: run for run in wanted}.values())  # another batch is so many more micro-batches
    most = setup.cap.seconds_left(Spending(), free.cost.usd_per_hour) / 2
    measured, launch, seconds = calibrate_shapes(
        runs, setup.data, setup.slots.gpu, setup.slots.threads, setup.config.pack, most, setup.suite
    )
    timings = {
        shape_key(run): Timing(
            step_seconds=c.typical_seconds,
            eval_seconds=c.eval_seconds,
            startup_seconds=c.startup_seconds,
            pack=c.pack,
            compiled=c.compiled,
        )
        for run, c in zip(runs, measured, strict=True)
    }
    record = Trial(
        id="calibration",
        run=replace(runs[0], lr=1e-6),
        horizon=measured[0].tokens,
        status="pruned",
        seconds=seconds,
        usd=seconds / 3600 * free.cost.usd_per_hour,
        flops=sum(run_flops(run, c.tokens) for run, c in zip(runs, measured, strict=True)),
        tags={"stage": "calibration", "launch_seconds": round(launch, 2)},
    )
    return make_problem(setup, timings, record.tags["launch_seconds"]), record


def run_trials(setup: Setup, session: Session, stages: list[Stage], mirror: Mirror, console: Console) -> bool:
    from search.execution.tune import execute

    with Screen(console, session, stages, setup.slots.count) as screen:

        def ended(trial: Trial) -> None:
            screen.trial(trial)
            mirror.trials([trial])

        return execute(
            session,
            setup.directory,
            setup.data,
            slots=setup.slots.count,
            gpu=setup.slots.gpu,
            threads=setup.slots.threads,
            on_progress=screen.progress,
            on_trial=ended,
            last_words=screen.last_words,
            suite=setup.suite,
        )


if __name__ == "__main__":
    cli.run(main)
    sys.exit()
