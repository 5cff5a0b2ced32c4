"""Learning-rate schedules as pure functions of the step; the peak is 1."""

from __future__ import annotations

import math

from trainer.config import RunConfig


def multiplier(run: RunConfig, step: int) -> float:
    """lr / peak lr at optimiser step `step` (0 is the first).

    Warmup is linear and reaches the peak in its last step, as in llm.c. After it: cosine and linear fall to
    `final_fraction` at the end; wsd stays at the peak until its cooldown, then falls linearly
    (arXiv 2405.18392); constant stays.
    """
    steps, warmup = run.steps, warmup_steps(run)
    if step < warmup:
        return (step + 1) / warmup
    if run.schedule == "constant":
        return 1.0
    start = decay_start(run) if run.schedule == "wsd" else warmup
    if step < start or steps <= start:
        return 1.0
    left = max(0.0, (steps - step) / (steps - start))
    if run.schedule == "cosine":
        left = 0.5 * (1 - math.cos(math.pi * left))
    return run.final_fraction + (1 - run.final_fraction) * left


def warmup_steps(run: RunConfig) -> int:
    return round(run.warmup / run.batch)


def decay_start(run: RunConfig) -> int:
    """First step of wsd's cooldown. Up to here ("the trunk") runs that differ only in `tokens` are identical,
    as long as both are past warmup."""
    if run.schedule != "wsd":
        return run.steps
    return max(run.steps - round(run.cooldown * run.steps), min(warmup_steps(run), run.steps))
