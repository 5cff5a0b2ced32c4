"""A hyperband search against the same trials as plain Ray Tune function trainables."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpt.benches.common import Options, Row, shapes
from search.budget import Budget, CostModel
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import Problem, Trial
from search.strategies.hyperband import Hyperband
from trainer.config import RunConfig
from trainer.data import Prepared, prepare
from trainer.data.synthetic import random_data
from trainer.devices import usable_cpus
from trainer.presets import laptop

HYPERBAND = Hyperband(reduction_factor=4, max_resource=64, units=512)
"""127 trials, the longest of an eighth of the target: about one target run of training, which is the default budget."""


def measure(options: Options) -> list[Row]:
    if options.quick:
        run = replace(shapes(replace(options, quick=True))["quick"], lr=None)
        with random_data(run.model.vocabulary, 64 * run.batch) as data:
            return compare(replace(run, tokens=9 * run.batch), data, Hyperband(max_resource=3, units=3), options)
    target = replace(laptop(), warmup=0)  # it would not fit into the first rungs, and trunks with less do not go on
    return compare(target, prepare(target.data), HYPERBAND, options)


def problem_of(target: RunConfig) -> Problem:
    return Problem(target=target, budget=Budget(flops=1e30), cost=CostModel())


def compare(target: RunConfig, data: Prepared, strategy: Hyperband, options: Options) -> list[Row]:
    gpu = options.device.type == "cuda"
    slots = 1 if gpu else usable_cpus()
    ours, our_seconds = run_ours(target, data, strategy, slots, gpu)
    losses, their_seconds = run_theirs(ours, data, slots, gpu)
    pairs = [(t.loss, loss) for t, loss in zip(ours, losses, strict=True) if t.loss is not None and loss is not None]
    alike = [(t.loss is None) == (loss is None) for t, loss in zip(ours, losses, strict=True)]
    shared = {"trials": len(ours), "slots": slots, "largest_difference": max(abs(a - b) for a, b in pairs),
              "same_endings": sum(alike)}  # fmt: skip
    return [
        {
            "way": "hpt",
            "wall_s": our_seconds,
            "tokens": sum(t.horizon - t.start for t in ours),
            "best_lr": best_lr(ours, [t.loss for t in ours]),
            "speedup": their_seconds / our_seconds,
            **shared,
        },
        {
            "way": "plain Ray Tune",
            "wall_s": their_seconds,
            "tokens": sum(t.horizon for t in ours),
            "best_lr": best_lr(ours, losses),
            "speedup": 1.0,
            **shared,
        },
    ]


def run_ours(
    target: RunConfig, data: Prepared, strategy: Hyperband, slots: int, gpu: bool
) -> tuple[list[Trial], float]:
    """What ended, and seconds with Ray's start."""
    from search.execution.tune import execute
    from trainer.local_ray import ray_session

    session = Session(strategy=strategy, problem=problem_of(target))
    ended: list[Trial] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hpt-bench-") as folder, ray_session(slots, slots if gpu else 0):
        execute(
            session,
            SearchDir(Path(folder)),
            data,
            slots=slots,
            gpu=gpu,
            threads=1,
            on_progress=lambda proposal, progress: None,
            on_trial=ended.append,
        )
    return ended, time.perf_counter() - began


def run_theirs(trials: Sequence[Trial], data: Prepared, slots: int, gpu: bool) -> tuple[list[float | None], float]:
    from hpt.benches.plain_tune import run_plain
    from trainer.local_ray import ray_session

    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="hpt-bench-") as folder, ray_session(slots, slots if gpu else 0):
        losses = run_plain(trials, data, gpu=gpu, threads=1, scratch=folder)
    return losses, time.perf_counter() - began


def best_lr(trials: Sequence[Trial], losses: Sequence[float | None]) -> float | None:
    """Of the lowest loss at the longest horizon."""
    longest = max(t.horizon for t in trials)
    found = [(loss, t.lr) for t, loss in zip(trials, losses, strict=True) if loss is not None and t.horizon == longest]
    return min(found)[1] if found else None
