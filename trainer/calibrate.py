"""How long a step of one shape takes here: 20 real steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.cohort import Cohort
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.devices import pick_device
from trainer.fused import pass_sequences
from trainer.loop import Training
from trainer.packing import pack_size

STEPS = 20
SECONDS = 30.0
MOST = 64
"""Members of a cohort, where nobody says how many."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Seconds. The first ten steps warm caches, allocators and compilers, so they do not count as steps."""

    step_seconds: float
    """Worst of steps 10-19 (of the second half, where time ran out before 20)."""
    eval_seconds: float
    startup_seconds: float
    """Building the model, and what step 0 took beyond an ordinary step."""
    total_seconds: float
    tokens: int
    """Trained on."""
    pack: int = 1
    """Members that were trained together; the first three figures are one's share."""


def calibrate(
    run: RunConfig, data: Prepared, device: torch.device | None = None, *, pack: int | None = 1
) -> Calibration:
    """Times one micro-batch a step, and scales by how many the batch has (so the optimiser is overcounted:
    a forecast may be too high, not too low). Stops after SECONDS with what it has, two steps at least.

    pack: members of a cohort that are timed together, as many as fit; None: on a GPU four times as many again while
    that makes a member cheaper by a tenth, elsewhere one.
    """
    device = device or pick_device()
    if pack == 1 or (pack is None and device.type != "cuda"):
        return _alone(run, data, device)
    most = pack_size(run, device, limit=pack or MOST)
    best = _alone(run, data, device) if pack is None else _together(run, data, device, most)
    total, tokens, size = best.total_seconds, best.tokens, 4
    while pack is None and size <= most:
        found = _together(run, data, device, size)
        total, tokens = total + found.total_seconds, tokens + found.tokens
        if found.step_seconds > 0.9 * best.step_seconds:
            break
        best, size = found, 4 * size
    return replace(best, total_seconds=total, tokens=tokens)


def _alone(run: RunConfig, data: Prepared, device: torch.device) -> Calibration:
    began = time.perf_counter()
    training = Training(replace(run, lr=1e-6), data, device)
    micro = min(run.batch, training.micro_batch * run.model.context)
    training.run = replace(training.run, batch=micro)
    built = time.perf_counter() - began
    steps = _steps(training.train_step, began)
    start = time.perf_counter()
    sequences = min(training.micro_batch, run.data.val_tokens // run.model.context)
    training.evaluate_some(sequences)
    evaluated = time.perf_counter() - start
    worst = max(steps[len(steps) // 2 :])
    return Calibration(
        step_seconds=worst * run.batch / micro,
        eval_seconds=evaluated * (run.data.val_tokens // run.model.context) / sequences,
        startup_seconds=built + max(0.0, steps[0] - worst),
        total_seconds=time.perf_counter() - began,
        tokens=len(steps) * micro,
    )


def _together(run: RunConfig, data: Prepared, device: torch.device, members: int) -> Calibration:
    """The same of a cohort, a member's share."""
    began = time.perf_counter()
    micro = pass_sequences(run, members, device) * run.model.context
    cohort = Cohort([replace(run, lr=1e-6, batch=micro)] * members, data, device)
    built = time.perf_counter() - began
    steps = _steps(cohort.engine.train_step, began)
    start = time.perf_counter()
    cohort.engine.evaluate()
    evaluated = time.perf_counter() - start
    worst = max(steps[len(steps) // 2 :])
    return Calibration(
        step_seconds=worst * run.batch / micro / members,
        eval_seconds=evaluated / members,
        startup_seconds=(built + max(0.0, steps[0] - worst)) / members,
        total_seconds=time.perf_counter() - began,
        tokens=len(steps) * micro * members,
        pack=members,
    )


def _steps(train_step: Callable[[], tuple[Tensor, Tensor]], began: float) -> list[float]:
    """Seconds of each of STEPS, or as many as there is time for."""
    steps: list[float] = []
    while len(steps) < 2 or (len(steps) < STEPS and time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        loss, _ = train_step()
        loss.sum().item()  # waits for the device
        steps.append(time.perf_counter() - start)
    return steps
