"""What a trial costs beside its training: trials of one step of the smallest model, through the executor."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from hpt.benches.common import Options, Row
from search.budget import Budget, CostModel
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import History, Problem, Proposal, Recommendation, Trial
from search.strategy import DONE, Done, Stage, Strategy
from trainer.config import RunConfig
from trainer.data.synthetic import random_data
from trainer.devices import usable_cpus
from trainer.presets import laptop


@dataclass(frozen=True, kw_only=True)
class Empty(Strategy):
    """Asks for the same one-step trial again and again."""

    trials: int

    def plan(self, history: History) -> list[Stage]:
        return []

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        run, known = history.problem.target, len(history.known)
        wanted = range(known, min(known + slots, self.trials))
        return [Proposal(id=f"{k:04d}", run=replace(run, lr=1e-3), horizon=run.batch) for k in wanted] or DONE

    def recommend(self, history: History) -> Recommendation:
        return Recommendation(lr=None)


def smallest() -> RunConfig:
    small = laptop()
    model = replace(small.model, depth=1, width=8, heads=1, context=8, vocabulary=64)
    return replace(small, model=model, data=replace(small.data, val_tokens=8), tokens=8, batch=8, warmup=0)


def measure(options: Options) -> list[Row]:
    """The first trials wait for their worker processes to start; so the rest are counted from when they ended."""
    from search.execution.tune import execute
    from trainer.local_ray import ray_session

    count, slots = (12 if options.quick else 400), usable_cpus()
    run, ended = smallest(), list[tuple[float, Trial]]()
    problem = Problem(target=run, budget=Budget(flops=1e30), cost=CostModel())
    session = Session(strategy=Empty(trials=count), problem=problem)
    with random_data(run.model.vocabulary, 1024) as data, tempfile.TemporaryDirectory(prefix="hpt-bench-") as folder:
        began = time.perf_counter()
        with ray_session(slots, 0):
            started = time.perf_counter()
            execute(
                session,
                SearchDir(Path(folder)),
                data,
                slots=slots,
                gpu=False,
                threads=1,
                on_progress=lambda proposal, progress: None,
                on_trial=lambda trial: ended.append((time.perf_counter(), trial)),
            )
            over = time.perf_counter()
    first, rest = ended[slots - 1][0], [trial for _, trial in ended[slots:]]
    training = sum(trial.train_seconds for trial in rest) / len(rest)
    return [
        {
            "trials": count,
            "slots": slots,
            "finished": sum(trial.status == "finished" for _, trial in ended),
            "ms_a_trial": 1e3 * (ended[-1][0] - first) / len(rest),
            "of_these_training": 1e3 * training / slots,
            "ray_start_s": started - began,
            "first_trials_s": first - started,
            "wall_s": over - began,
        }
    ]
