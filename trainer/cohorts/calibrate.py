"""How long a step of one shape takes here: 20 real steps."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from trainer.cohorts.cohort import Cohort
from trainer.cohorts.fused import pass_sequences
from trainer.cohorts.memory import fitted
from trainer.cohorts.packing import pack_size
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.devices import pick_device
from trainer.loop import Training

STEPS = 20
SECONDS = 30.0
T = TypeVar("T")
MOST = 64
"""Members of a cohort, where nobody says how many."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Seconds. The first ten steps warm caches, allocators and compilers, so they do not count as steps."""

    step_seconds: float
    """Worst of steps 10-19 (of the second half, where time ran out before 20): for a bill that is not to be passed."""
    typical_seconds: float
    """Median of the same: for a forecast of how long many steps will take."""
    first_seconds: float
    """Step 0 of the process: caches, allocators and compilers are cold."""
    eval_seconds: float
    startup_seconds: float
    """Building the model in a warm process, and what step 0 took beyond an ordinary step."""
    total_seconds: float
    tokens: int
    """Trained on."""
    pack: int = 1
    """Members that were trained together; other figures are one's share."""
    compiled: bool = False
    """By torch.compile: in the time of one whole run it saves more than compiling takes."""


def calibrate(
    run: RunConfig,
    data: Prepared,
    device: torch.device | None = None,
    *,
    pack: int | None = 1,
    compile: bool | None = False,
) -> Calibration:
    """Times one micro-batch a step, and scales by how many the batch has (so the optimiser is overcounted:
    a forecast may be too high, not too low). Stops after SECONDS with what it has, two steps at least.

    pack: members of a cohort that are timed together, as many as fit; None: on a GPU four times as many again while
    that makes a member cheaper by a tenth, elsewhere one. compile: whether torch.compile is tried; None: on a GPU.
    """
    device = device or pick_device()
    eager = _packed(run, data, device, pack)
    if compile is False or (compile is None and device.type != "cuda"):
        return eager
    other = _together(run, data, device, eager.pack, compile=True)
    seconds, tokens = eager.total_seconds + other.total_seconds, eager.tokens + other.tokens
    saved = (eager.typical_seconds - other.typical_seconds) * run.steps * eager.pack
    better = other if saved > (other.first_seconds - other.typical_seconds) * eager.pack else eager
    return replace(better, total_seconds=seconds, tokens=tokens)


def _packed(run: RunConfig, data: Prepared, device: torch.device, pack: int | None) -> Calibration:
    if pack == 1 or (pack is None and device.type != "cuda"):
        return _alone(run, data, device)
    most = pack_size(run, device, limit=pack or MOST)
    if pack is not None:
        return _most_together(run, data, device, most)
    best = _alone(run, data, device)
    total, tokens, size = best.total_seconds, best.tokens, 4
    while size <= most:
        try:
            found = _together(run, data, device, size)
        except torch.OutOfMemoryError:  # the memory model was too hopeful: fewer it is
            break
        total, tokens = total + found.total_seconds, tokens + found.tokens
        if found.step_seconds > 0.9 * best.step_seconds:
            break
        best, size = found, 4 * size
    return replace(best, total_seconds=total, tokens=tokens)


def _most_together(run: RunConfig, data: Prepared, device: torch.device, members: int) -> Calibration:
    """So many members, or half of them while memory runs out."""
    while members > 1:
        try:
            return _together(run, data, device, members)
        except torch.OutOfMemoryError:
            members //= 2
    return _together(run, data, device, 1)


def _alone(run: RunConfig, data: Prepared, device: torch.device) -> Calibration:
    def make() -> Training:
        training = Training(replace(fitted(run, device), lr=1e-6), data, device)
        training.run = replace(training.run, batch=min(run.batch, training.micro_batch * run.model.context))
        return training

    def evaluate(training: Training) -> float:
        """Share of the held-out tokens that was read."""
        whole = run.data.val_tokens // run.model.context
        sequences = min(training.micro_batch, whole)
        training.evaluate_some(sequences)
        return sequences / whole

    return _timed(run, make, lambda training: training.train_step, lambda training: training.run.batch, evaluate, 1)


def _together(run: RunConfig, data: Prepared, device: torch.device, members: int, compile: bool = False) -> Calibration:
    """The same of a cohort, a member's share."""
    micro = pass_sequences(run, members, device) * run.model.context

    def evaluate(cohort: Cohort) -> float:
        cohort.engine.evaluate()
        return 1.0

    found = _timed(
        run,
        lambda: Cohort([replace(run, lr=1e-6, batch=micro)] * members, data, device, compile=compile),
        lambda cohort: cohort.engine.train_step,
        lambda cohort: micro,
        evaluate,
        members,
    )
    return replace(found, compiled=compile)


def _timed(
    run: RunConfig,
    make: Callable[[], T],
    stepper: Callable[[T], Callable[[], tuple[Tensor, Tensor]]],
    tokens_of: Callable[[T], int],
    evaluate: Callable[[T], float],
    members: int,
) -> Calibration:
    """Builds, steps and evaluates; then builds once more and makes a step, which is what a trial of a warm process
    begins with."""
    began = time.perf_counter()

    def use() -> tuple[list[float], float, int]:
        subject, steps = make(), list[float]()
        step = stepper(subject)
        while len(steps) < 2 or (len(steps) < STEPS and time.perf_counter() - began < SECONDS):
            steps.append(_seconds(lambda: step()[0].sum().item()))  # item waits for the device
        share = evaluate(subject)
        return steps, _seconds(lambda: evaluate(subject)) / share, tokens_of(subject)

    steps, evaluated, micro = use()  # nothing of it is in memory afterwards
    warm = steps[len(steps) // 2 :]
    typical = statistics.median(warm)
    startup = _seconds(lambda: stepper(make())()[0].sum().item()) - typical
    return Calibration(
        step_seconds=max(warm) * run.batch / micro / members,
        typical_seconds=typical * run.batch / micro / members,
        first_seconds=steps[0] * run.batch / micro / members,
        eval_seconds=evaluated / members,
        startup_seconds=max(0.0, startup) / members,
        total_seconds=time.perf_counter() - began,
        tokens=(len(steps) + 1) * micro * members,
        pack=members,
    )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
