"""The plan of a search for a device that is not here: no data, no network, no Ray."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Console

from hpt.console.assumed import LAUNCH_SECONDS
from hpt.console.screen import plan_table, planned
from hpt.console.settings import SearchConfig
from hpt.console.setup import Setup, Slots, make_problem
from hpt.reports.numbers import duration, short
from search.budget import Spending
from search.execution.store import SearchDir
from search.records import History
from trainer.architecture.counts import parameters, run_flops
from trainer.config import RunConfig
from trainer.targets import write_target


def described(config: SearchConfig, target: RunConfig) -> str:
    """The target in a line."""
    n = parameters(target.model)
    return (
        f"target [bold]{config.target}[/bold]: {short(n.total)} parameters ({short(n.non_embedding)} non-embedding), "
        f"{short(target.tokens)} tokens in {target.steps:,} steps of {target.batch:,}, {run_flops(target):.3g} FLOPs"
        + (f"\n{config.counted}" if config.counted else "")
    )


def save_target(config: SearchConfig, target: RunConfig, console: Console) -> None:
    """--save-target."""
    if config.save_target is not None:
        write_target(config.save_target, target)
        console.print(f"target written: {config.save_target}")


def plan_elsewhere(config: SearchConfig, console: Console) -> int:
    """The plan for a device that is not here, from what is assumed of it."""
    strategy, target, assumed = config.build_strategy(), config.build_target(), config.assumed
    setup = Setup(
        config=config,
        slots=Slots.of(config),
        strategy=strategy,
        target=target,
        data=None,
        directory=SearchDir(config.out / "none"),
        resumed=False,
    )
    console.print(described(config, target))
    save_target(config, target, console)
    for sentence in assumed.sentences(target):
        console.print(sentence)
    shapes = strategy.shapes(History(problem=make_problem(setup, {}))) or [target]
    timings = assumed.timings({run.model: run for run in (target, *shapes)}.values())
    problem = make_problem(setup, timings, LAUNCH_SECONDS)
    stages = strategy.plan(History(problem=problem))
    console.print(plan_table(stages, setup.slots.count, assumed.price > 0, LAUNCH_SECONDS))
    whole = problem.cost.forecast(target, target.tokens)
    total = sum((stage.cost for stage in stages), Spending())
    money = f" and ${whole.usd:.2f}" if assumed.price else ""
    console.print(f"the target itself would take {duration(whole.seconds)}{money} there")
    console.print("dry run: nothing was trained, nothing was written")
    answer = {"plan": list(map(planned, stages)), "cost": asdict(total), "target": asdict(whole)}
    config.answer({**answer, "assumed": assumed.to_json(target)}, f"{total.flops:.3g} FLOPs, ${total.usd:.2f}")
    return 0
