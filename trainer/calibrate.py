"""How long a step of one shape takes here: 20 real steps."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.loop import Training

STEPS = 20
SECONDS = 30.0


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


def calibrate(run: RunConfig, data: Prepared, device: torch.device | None = None) -> Calibration:
    """Times one micro-batch a step, and scales by how many the batch has (so the optimiser is overcounted:
    a forecast may be too high, not too low). Stops after SECONDS with what it has, two steps at least."""
    began = time.perf_counter()
    training = Training(replace(run, lr=1e-6), data, device)
    micro = min(run.batch, training.micro_batch * run.model.context)
    training.run = replace(training.run, batch=micro)
    built = time.perf_counter() - began
    steps: list[float] = []
    while len(steps) < 2 or (len(steps) < STEPS and time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        loss, _ = training.train_step()
        loss.item()  # waits for the device
        steps.append(time.perf_counter() - start)
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
