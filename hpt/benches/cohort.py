"""Many members together against each alone, against several processes that share the device, and a process each.

ms_each: of the device, a step of one member. vs_alone: how many times faster than in one warm process after another;
vs_sharing: than processes that share the device; vs_fresh: than a trial of TRIAL_STEPS in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from hpt.benches.common import Options, Row, in_time, seconds, synchronise
from hpt.benches.common import shapes as step_shapes
from trainer.architecture.counts import parameters
from trainer.cohorts.cohort import Cohort
from trainer.cohorts.fused import Fused
from trainer.cohorts.packing import pack_size
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.data.synthetic import random_data
from trainer.loop import Training
from trainer.presets import laptop

TRIAL_STEPS = 300
"""Of the trial that throughput is given for: that is where a process's start-up counts."""


def measure(options: Options) -> list[Row]:
    rows = []
    for name, run in in_time(shapes(options), options):
        with random_data(run.model.vocabulary, 16 * run.batch + 1) as data:
            rows += [{"shape": name, **row} for row in _shape(run, data, options)]
    return rows


def shapes(options: Options) -> dict[str, RunConfig]:
    """Proxies with small batches: where one alone leaves a GPU idle."""
    if options.quick or options.device.type == "cpu":
        return step_shapes(options) if options.quick else {"0.4M": replace(laptop(), lr=1e-3)}
    base = replace(laptop(), lr=1e-3, batch=8192)
    base = replace(base, model=replace(base.model, context=256))
    wide = replace(base, model=replace(base.model, vocabulary=50304))
    return {
        "0.4M": base,
        "3M": base.shaped(6, 192, 3),
        "3M, 50k vocabulary": wide.shaped(1, 64, 1),
        "10M": base.shaped(10, 280, 5),
    }


def _shape(run: RunConfig, data: Prepared, options: Options) -> list[Row]:
    device, size = options.device, parameters(run.model).total
    processes = Processes(run, data, device, 2 if device.type == "cpu" else 8, 0.3 if options.quick else 5.0)
    wanted = options.members or ((2,) if options.quick else (8, 16) if device.type == "cpu" else (8, 32, 64))
    most = pack_size(run, device, fused=True)
    rows: list[Row] = []
    for members in sorted({min(m, most) for m in wanted}):
        taken = seconds(_ways(run, members, data, options), options.repeats, device)
        each = {name: time / (1 if name == "alone" else members) for name, time in taken.items()}
        trial = processes.startup_seconds + TRIAL_STEPS * each["alone"]
        rows += [
            {
                "parameters": size,
                "members": 1 if name == "alone" else members,
                "way": name,
                "ms_each": 1e3 * time_each,
                "vs_alone": each["alone"] / time_each,
                "vs_sharing": processes.step_seconds / time_each,
                "vs_fresh": trial / (TRIAL_STEPS * time_each),
            }
            for name, time_each in each.items()
        ]
    shared = {"ms_each": 1e3 * processes.step_seconds, "startup": processes.startup_seconds}
    return [*rows, {"parameters": size, "members": processes.count, "way": "processes sharing", **shared}]


def _ways(run: RunConfig, members: int, data: Prepared, options: Options) -> dict[str, Callable[[], Any]]:
    device = options.device
    runs = [replace(run, lr=1e-3 * 1.01**m) for m in range(members)]
    ways = {
        "alone": Training(run, data, device).train_step,
        "fused": Cohort(runs, data, device, fused=True).engine.train_step,
    }
    if options.compiled:
        ways["fused compiled"] = compiled(runs, data, device)
    if device.type == "cpu":
        ways["in turn"] = Cohort(runs, data, device, fused=False).engine.train_step
    return ways


def compiled(runs: list[RunConfig], data: Prepared, device: torch.device) -> Callable[[], Any]:
    """The fused step with torch.compile where elementwise work is: not the loss, which is written by hand."""
    engine = Fused(runs, data, device)
    engine.model.features = torch.compile(engine.model.features)
    return engine.train_step


class Processes:
    """`count` fresh processes that train on one device at the same time for `duration` seconds.

    step_seconds: of the device, a step of one of them. startup_seconds: from starting the first, alone, until it has
    made its first step.
    """

    def __init__(self, run: RunConfig, data: Prepared, device: torch.device, count: int, duration: float) -> None:
        context, self.count = multiprocessing.get_context("spawn"), count
        threads = max(1, torch.get_num_threads() // count)
        results, barrier = context.Queue(), context.Barrier(count)
        arguments = (run, data, str(device), threads, duration, results)
        began = time.perf_counter()
        first = context.Process(target=_process, args=(*arguments, None))
        first.start()
        results.get()
        self.startup_seconds = time.perf_counter() - began
        results.get()
        first.join()
        others = [context.Process(target=_process, args=(*arguments, barrier)) for _ in range(count)]
        for process in others:
            process.start()
        rates = [rate for _ in range(2 * count) if (rate := results.get()) > 0]
        for process in others:
            process.join()
        self.step_seconds = 1 / sum(rates)


def _process(
    run: RunConfig, data: Prepared, device: str, threads: int, duration: float, results: Any, wait: Any
) -> None:
    """Puts 0 after the first step, then steps a second."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    where = torch.device(device)
    training = Training(run, data, where)
    training.train_step()
    synchronise(where)
    results.put(0.0)
    if wait is not None:
        wait.wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < duration:
        training.train_step()
        steps += 1
        if steps % 10 == 0:
            synchronise(where)
    synchronise(where)
    results.put(steps / (time.perf_counter() - began))
