"""A search in this process, without Ray: what `hpt.find_lr` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console

from hpt.console.beginning import check_same_data, fingerprint
from hpt.console.settings import SearchConfig
from hpt.console.setup import Setup, Slots, make_problem
from hpt.console.timing import document_of, in_this_process, timed
from hpt.console.trainers import build, check_strategy
from search.budget import Spending, Timing
from search.execution.alone import run_alone
from search.execution.external.function import given
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import History, Trial
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
    if config.log:
        raise UserError(f"find_lr logs to files alone: python -m hpt.export {directory.path} --to {config.log[0]}.")
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
        check_same_data(document.get("data", {}), fingerprint(setup.data), directory.path)
        timings = {key: Timing(**values) for key, values in document["timings"].items()}
        trials = directory.read_trials()
        trials += directory.settle(trials)
    else:
        setup.strategy.plan(History(problem=make_problem(setup, {})))  # what is hopeless is told at once
        timings, record = timed(setup, in_this_process(setup))
        trials = [record]
        directory.write_config({**document_of(setup, timings, record), "plan": []})
        directory.append(record)
    seedless = setup.trainer is not None and not setup.trainer.can.seeds
    patience = None if setup.trainer is None else 3
    problem = make_problem(setup, timings)
    return Session(setup.strategy, problem, trials, cap=setup.cap, seedless=seedless, patience=patience)


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
