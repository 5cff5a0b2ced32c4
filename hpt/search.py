"""`python -m hpt.search`: find the peak learning rate of a run that can be afforded only once."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from hpt.console import cli
from hpt.console.answer import conclude, search_run
from hpt.console.screen import Screen, plan_table, short
from hpt.console.settings import SearchConfig, Setup, Slots, changed, from_json, make_problem, to_json
from hpt.tracking.mirror import Mirror
from search.budget import Spending, Timing, shape_key
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import History, Problem, Trial
from search.strategy import Stage
from trainer.architecture.counts import parameters, run_flops
from trainer.config import to_dict
from trainer.data import check_enough, prepare
from trainer.errors import UserError


def main(argv: Sequence[str]) -> int:
    config, resumed = read_config(argv)
    console = config.console()
    began = time.monotonic()
    setup = make_ready(config, resumed, console)
    from trainer.local_ray import ray_session  # Ray takes its time to import: bad input is told before

    with console.status("starting Ray"):
        ray = ray_session(setup.slots.count, setup.slots.count if setup.slots.gpu else 0)
        ray.__enter__()
    try:
        return search(setup, console, began)
    finally:
        ray.__exit__(None, None, None)
        setup.directory.unlock()


def read_config(argv: Sequence[str]) -> tuple[SearchConfig, bool]:
    """The configuration, and whether it continues a search: then it is the saved one, unchanged."""
    given = cli.parse(SearchConfig, argv, "hpt.search")
    if given.resume is None:
        return given, False
    saved = from_json(SearchDir(given.resume).read_config()["search"], given.resume)
    again = cli.parse(SearchConfig, argv, "hpt.search", default=saved)
    if flags := changed(again, saved):
        raise UserError(
            f"{given.resume} was made with other values of {', '.join(flags)}: leave them out to go on "
            "with it, or start a new search with another --name."
        )
    return again, True


def make_ready(config: SearchConfig, resumed: bool, console: Console) -> Setup:
    strategy, target = config.build_strategy(), config.build_target()
    directory = SearchDir(config.resume or new_directory(config))
    with console.status("preparing data") as status:
        data = prepare(target.data, vocabulary=target.model.vocabulary, say=status.update)
    check_enough(data, target.data, target.tokens)
    n = parameters(target.model)
    console.print(
        f"target [bold]{config.target}[/bold]: {short(n.total)} parameters ({short(n.non_embedding)} "
        f"non-embedding), {short(target.tokens)} tokens in {target.steps:,} steps, {run_flops(target):.3g} FLOPs"
    )
    setup = Setup(
        config=config,
        slots=Slots.of(config),
        strategy=strategy,
        target=target,
        data=data,
        directory=directory,
        resumed=resumed,
    )
    strategy.plan(History(problem=make_problem(setup, {})))  # a budget that is hopeless in FLOPs is told at once
    if not config.dry_run:
        directory.lock()
    return setup


def new_directory(config: SearchConfig) -> Path:
    """A directory that no search has used."""
    if config.name is not None:
        path = config.out / config.name
        if (path / "config.json").exists():
            raise UserError(f"{path} holds a search already: go on with --resume {path}, or choose another --name.")
        return path
    base = f"{config.target}-{config.strategy.rpartition(':')[2]}"
    names = [base, *(f"{base}-{i}" for i in range(2, 10_000))]
    return next(p for p in (config.out / name for name in names) if not (p / "config.json").exists())


def search(setup: Setup, console: Console, began: float) -> int:
    config, directory = setup.config, setup.directory
    if setup.resumed:
        saved = directory.read_config()
        problem = make_problem(setup, {k: Timing(**v) for k, v in saved["timings"].items()})
        trials, search_id = directory.read_trials(), saved["id"]
    else:
        with console.status("timing 20 steps of each shape"):
            problem, calibration = calibrated(setup)
        trials, search_id = [calibration], uuid.uuid4().hex
    session = Session(strategy=setup.strategy, problem=problem, trials=trials)
    stages = setup.strategy.plan(session.history)
    launch = trials[0].tags.get("launch_seconds", 0.0)
    console.print(plan_table(stages, setup.slots.count, config.usd_per_hour > 0, launch))
    if config.dry_run:
        console.print("dry run: nothing was trained but the steps that were timed, nothing was written")
        total = sum((stage.cost for stage in stages), Spending())
        config.answer({"plan": list(map(planned, stages)), "cost": asdict(total)}, f"{total.flops:.3g} FLOPs")
        return 0
    if not setup.resumed:
        timings = {k: to_dict(v) for k, v in problem.cost.timings.items()}
        directory.write_config(
            {
                "id": search_id,
                "search": to_json(config),
                "target": to_dict(setup.target),
                "timings": timings,
                "plan": [planned(stage) for stage in stages],
            }
        )
        directory.append(trials[0])
    mirror = Mirror(
        search_run(setup, search_id),
        lambda text: console.print(
            f"{text}: the search goes on, and python -m hpt.search --resume {directory.path} fills in what is missing",
            style="yellow",
        ),
    )
    mirror.trials(list(session.trials))
    completed = run_trials(setup, session, stages, mirror, console)
    if not completed:
        mirror.stop(5)
        console.print(f"interrupted; go on with: python -m hpt.search --resume {directory.path}")
        return 130
    conclude(setup, session, mirror, console, began)
    return 0


def planned(stage: Stage) -> dict[str, Any]:
    """A stage for config.json, so that what was spent can be set beside it."""
    return {"name": stage.name, "trials": stage.trials, "tokens": stage.tokens, "cost": asdict(stage.cost)}


def calibrated(setup: Setup) -> tuple[Problem, Trial]:
    """The problem with its cost model, and the record of what measuring it cost."""
    from search.execution.tune import calibrate_shapes

    free = make_problem(setup, {})
    wanted = setup.strategy.shapes(History(problem=free)) or [setup.target]
    runs = list({run.model: run for run in wanted}.values())  # another batch is so many more micro-batches
    measured, launch = calibrate_shapes(runs, setup.data, setup.slots.gpu, setup.slots.threads, setup.config.pack)
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
    seconds = sum(c.total_seconds for c in measured)
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
    return make_problem(setup, timings), record


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
        )


if __name__ == "__main__":
    cli.run(main)
    sys.exit()
