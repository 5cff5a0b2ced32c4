"""`python -m hpt.search`: find the peak learning rate of a run that can be afforded only once."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from hpt.console import cli
from hpt.console.answer import conclude, search_run
from hpt.console.asked import asked, begin_asked
from hpt.console.beginning import check_same_data, claimed, fingerprint, free_directories, read_config
from hpt.console.elsewhere import described, plan_elsewhere, save_target
from hpt.console.progress import Screen, doing
from hpt.console.screen import plan_table, planned
from hpt.console.settings import TARGET_FILE, SearchConfig, budgets
from hpt.console.setup import Setup, Slots, make_problem, on_cluster
from hpt.console.timing import document_of, in_ray, timed
from hpt.console.trainers import build, check_strategy, command_line, notes_of
from hpt.reports.numbers import short
from hpt.tracking.mirror import Mirror, check_loggers
from search.budget import Spending, Timing
from search.execution.external.command import Command
from search.execution.external.measure import check
from search.execution.session import Session
from search.execution.store import SearchDir
from search.execution.watch import clean_stops
from search.records import History, Problem, Trial
from search.strategy import Stage
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig
from trainer.data import Prepared, prepare
from trainer.errors import UserError
from trainer.inputs import check_data
from trainer.presets import preset
from trainer.targets import write_target


def main(argv: Sequence[str]) -> int:
    with clean_stops():
        config, begun = read_config(argv)
        console = config.console()
        began = time.monotonic()
        if config.device is not None:
            return plan_elsewhere(config, console)
        if config.ask_only:
            return ask_only(config, console)
        setup = make_ready(config, begun, console)
        if config.trainer_options.check and setup.trainer is not None:
            return checked(setup, setup.trainer, console)
        from trainer.local_ray import ray_session  # Ray takes its time to import: bad input is told before

        with doing(console, "starting Ray"):
            ray = ray_session(setup.slots.count, setup.slots.count * setup.slots.gpu)
            ray.__enter__()
        try:
            return search(on_cluster(setup, console), console, began)
        except KeyboardInterrupt:  # Ray takes its time to end
            console.print("stopping")
            raise
        finally:
            ray.__exit__(None, None, None)
            setup.directory.unlock()


def make_ready(config: SearchConfig, begun: SearchConfig | None, console: Console) -> Setup:
    from trainer.evals.suite import Suite

    check_loggers(config.log)
    strategy, target = config.build_strategy(), config.build_target()
    directory = SearchDir(config.resume or next(free_directories(config)))
    trainer = build(config.trainer, config.trainer_options, directory.path)
    check_strategy(config.strategy, strategy, config.trainer, trainer)
    data = None if trainer is not None else tokens_of(target, begun is not None, directory, console)
    if config.tasks and trainer is not None:
        raise UserError("--tasks scores hpt's own models, and --trainer has its own: leave one of the two out.")
    suite = None if data is None or config.finetunes else Suite.of(config.tasks, data, config.task_limit)
    console.print(described(config, target))
    save_target(config, target, console)
    if suite is not None:
        read = suite.reading(target)
        share = read.flops(target) / run_flops(target)
        console.print(
            f"each finished trial is scored on {', '.join(suite.files)}, {config.task_limit} items of each: "
            f"{short(read.tokens)} tokens read, at the target's size {share:.2%} of a target run"
        )
    setup = Setup(
        config=config,
        slots=Slots.of(config),
        strategy=strategy,
        target=target,
        data=data,
        directory=directory,
        resumed=begun is not None,
        trainer=trainer,
        suite=suite,
        begun=begun,
    )
    if trainer is not None:
        foreign(setup, trainer, console)
    strategy.plan(History(problem=make_problem(setup, {})))  # a budget that is hopeless in FLOPs is told at once
    if config.dry_run or config.trainer_options.check:
        return setup
    directory = claimed(config)
    return replace(setup, directory=directory, trainer=build(config.trainer, config.trainer_options, directory.path))


def ask_only(config: SearchConfig, console: Console) -> int:
    """--ask-only: a directory from which hpt.ask gives out trials."""
    if config.resume is not None:
        raise UserError(f"{config.resume} is begun already: python -m hpt.ask {config.resume} goes on with it.")
    search, stages = asked(config, SearchDir(next(free_directories(config))))
    console.print(described(config, search.problem.target))
    console.print(plan_table(stages, 1, False))
    if config.dry_run:
        console.print("dry run: nothing was written")
        config.answer({"plan": list(map(planned, stages))}, f"{sum(s.trials for s in stages)} trials")
        return 0
    directory = claimed(config)
    try:
        begin_asked(config, directory)
    finally:
        directory.unlock()
    console.print(f"begun: python -m hpt.ask {directory.path} gives out trials, python -m hpt.tell takes their losses")
    config.answer({"directory": directory.path}, str(directory.path))
    return 0


def checked(setup: Setup, trainer: Command, console: Console) -> int:
    """--trainer.check."""
    shapes = setup.strategy.shapes(History(problem=make_problem(setup, {}))) or [setup.target]
    with doing(console, "running ten steps"), tempfile.TemporaryDirectory(prefix="hpt-check-") as folder:
        cheapest = min(shapes, key=run_flops)
        said = check(replace(trainer, trials=folder), cheapest, setup.slots.threads)
    for sentence in said:
        console.print(sentence, markup=False)
    setup.config.answer({"check": said}, said[0])
    return 0


def tokens_of(target: RunConfig, resumed: bool, directory: SearchDir, console: Console) -> Prepared:
    """What hpt's own trainer trains on."""
    with doing(console, "preparing data") as say:
        data = prepare(target.data, vocabulary=target.model.vocabulary, say=say)
    check_data(target, data)
    if resumed:
        check_same_data(directory.read_config().get("data", {}), fingerprint(data), directory.path)
    return data


def foreign(setup: Setup, trainer: Command, console: Console) -> None:
    """What somebody else's trainer would be told, and what is doubtful about it."""
    for note in notes_of(setup.config.trainer, trainer):
        console.print(f"note: {note}", style="yellow", markup=False)
    shapes = setup.strategy.shapes(History(problem=make_problem(setup, {}))) or [setup.target]
    runs = sorted({r.model: r for r in (*shapes, setup.target)}.values(), key=run_flops)
    for run in runs if len(runs) < 3 else (runs[0], runs[len(runs) // 2], runs[-1]):
        line = command_line(trainer, replace(run, lr=run.lr or 1e-3), "dry")
        console.print(f"  {line}", markup=False, soft_wrap=True)


def search(setup: Setup, console: Console, began: float) -> int:
    config, directory = setup.config, setup.directory
    begin = continued if setup.resumed else begun
    problem, trials, document = begin(setup, console)
    launch = document["launch_seconds"]
    seedless = setup.trainer is not None and not setup.trainer.can.seeds
    session = Session(
        setup.strategy,
        problem,
        trials,
        cap=setup.cap,
        launch_seconds=launch,
        seedless=seedless,
        patience=None if setup.trainer is None else 3,
    )
    stages = setup.strategy.plan(session.history)
    console.print(plan_table(stages, setup.slots.count, config.usd_per_hour > 0, launch))
    if config.dry_run:
        written = f"nothing but {config.save_target}" if config.save_target else "nothing"
        console.print(f"dry run: nothing was trained but the steps that were timed, {written} was written")
        total = sum((stage.cost for stage in stages), Spending())
        config.answer({"plan": list(map(planned, stages)), "cost": asdict(total)}, f"{total.flops:.3g} FLOPs")
        return 0
    if not setup.resumed:
        if config.target.endswith(".toml"):
            write_target(directory.path / TARGET_FILE, preset(config.target))
        directory.write_config({**document, "plan": [planned(stage) for stage in stages]})
        directory.append(trials[0])
    logged = " ".join(["", "--log", *config.log]) if config.log else ""
    again = f"python -m hpt.search --resume {directory.path}{logged}"
    mirror = Mirror(
        search_run(setup, document["id"]),
        lambda text: console.print(
            f"{text}: the search goes on, and {again} fills in what is missing",
            style="yellow",
        ),
    )
    mirror.trials(session.trials)
    completed = run_trials(setup, session, stages, mirror, console)
    if not completed:
        mirror.stop(5)
        again += "" if setup.trainer is None else f" --trainer {shlex.quote(config.trainer)}"
        console.print(f"interrupted; go on with: {again}", markup=False)
        return 130
    conclude(setup, session, mirror, console, began)
    return 0


Begun = tuple[Problem, list[Trial], dict[str, Any]]
"""The problem with its cost model, the history, and config.json."""


def begun(setup: Setup, console: Console) -> Begun:
    """A new search: its shapes are timed."""
    with doing(console, "timing 20 steps of each shape" if setup.trainer is None else "timing two short runs") as say:
        timings, record = timed(setup, in_ray(setup, say))
    return make_problem(setup, timings, record.tags["launch_seconds"]), [record], document_of(setup, timings, record)


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
            checkpoints=setup.checkpoints,
            on_progress=screen.progress,
            on_trial=ended,
            last_words=screen.last_words,
            stopping=screen.stopping,
            trainer=setup.trainer,
            suite=setup.suite,
        )


if __name__ == "__main__":
    cli.run(main)
    sys.exit()
