"""How a search begins whose trials hpt.ask gives out."""

from __future__ import annotations

import uuid
from dataclasses import replace

from hpt.console.screen import planned
from hpt.console.settings import TARGET_FILE, SearchConfig, to_json
from hpt.console.setup import Setup, Slots, make_problem
from hpt.console.timing import timing_record
from hpt.console.trainers import build, check_strategy
from search.execution.asktell import AskTell
from search.execution.store import SearchDir
from search.records import History
from search.strategy import Stage
from trainer.config import to_dict
from trainer.presets import preset
from trainer.targets import write_target


def asked(config: SearchConfig, directory: SearchDir) -> tuple[AskTell, list[Stage]]:
    """The search and its plan; nothing is written. UserError where it cannot be."""
    strategy, target = config.build_strategy(), config.build_target()
    trainer = build(config.trainer, config.trainer_options, directory.path)
    check_strategy(config.strategy, strategy, config.trainer, trainer)
    setup = Setup(
        config=config,
        slots=Slots(count=1, gpu=0, threads=1, per_device=1),
        strategy=strategy,
        target=target,
        data=None,
        directory=directory,
        resumed=False,
        trainer=trainer,
    )
    problem = make_problem(setup, {})
    problem = replace(problem, budget=problem.budget.whole, cost=replace(problem.cost, flops_per_second=0.0))
    return AskTell(directory, strategy, problem, trainer), strategy.plan(History(problem=problem))


def begin_asked(config: SearchConfig, directory: SearchDir) -> None:
    """Write what `hpt.ask` and `hpt.tell` go on with. The directory is locked by the caller."""
    search, stages = asked(config, directory)
    target = search.problem.target
    if config.target.endswith(".toml"):
        write_target(directory.path / TARGET_FILE, preset(config.target))
    plan, asking = [planned(stage) for stage in stages], search.document(config.strategy)
    document = {"id": uuid.uuid4().hex, "search": to_json(config), "target": to_dict(target), "data": {}, "timings": {},
                "launch_seconds": 0.0, "asked": asking, "plan": plan}  # fmt: skip
    directory.write_config(document)
    directory.append(timing_record(target))
