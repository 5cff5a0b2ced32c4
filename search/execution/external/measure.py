"""What a trial of somebody else's trainer takes: its start, which is most of a short one, and each step."""

from __future__ import annotations

import time
from dataclasses import replace

from search.budget import Timing
from search.execution.contract import Job, Progress, Trainer, finish
from search.records import Proposal
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig
from trainer.errors import UserError

LR = 1e-4
"""Of runs that only show how long a step takes: what they find is never used."""


def cut(run: RunConfig, steps: int) -> RunConfig:
    """A whole run of so few steps."""
    tokens = min(steps, run.steps) * run.batch
    return replace(run, tokens=tokens, warmup=round(run.warmup * tokens / run.tokens), lr=run.lr or LR)


def one(trainer: Trainer, name: str, run: RunConfig, threads: int) -> tuple[Progress, float]:
    """A run's ending, and how long it took."""
    began = time.monotonic()
    proposal = Proposal(id=name, run=run, horizon=run.tokens)
    work = trainer.begin(Job(proposals=(proposal,), data=None, checkpoints="", threads=threads))
    try:
        found = finish(work)[name]
    finally:
        work.close()
    return found, time.monotonic() - began


def measure(
    trainer: Trainer, runs: list[RunConfig], steps: tuple[int, int], threads: int
) -> tuple[list[Timing], float, float]:
    """The first run at two lengths: its start is the intercept, a step the slope; of the others one each, with that
    start. UserError where a run fails: all would."""
    few, many = (min(s, runs[0].steps) for s in sorted(steps))
    if few == many:
        few = max(1, many // 3)
    first, last = (_took(trainer, f"calibration-{s}", cut(runs[0], s), threads) for s in (few, many))
    step = max((last - first) / max(1, many - few), 0.01 * last / many)
    start = max(0.0, first - few * step)
    timings, seconds = [Timing(step_seconds=step, startup_seconds=start)], first + last
    flops = sum(run_flops(cut(runs[0], s)) for s in (few, many))
    for k, run in enumerate(runs[1:]):
        took = _took(trainer, f"calibration-{k + 2}-{few}", cut(run, few), threads)
        step = max(took - start, 0.05 * took) / min(few, run.steps)
        timings.append(Timing(step_seconds=step, startup_seconds=start))
        seconds, flops = seconds + took, flops + run_flops(cut(run, few))
    return timings, seconds, flops


def _took(trainer: Trainer, name: str, run: RunConfig, threads: int) -> float:
    found, seconds = one(trainer, name, run, threads)
    if found.status == "failed":
        raise UserError(f"The trainer's first run, of {run.steps} steps, failed: {found.error}.")
    return seconds


def check(trainer: Trainer, run: RunConfig, threads: int) -> list[str]:
    """What ten steps of the cheapest run show, one sentence each. UserError where they fail, and where two lrs give the
    same loss: then the lr does not arrive, and a search would be worth nothing."""
    short = cut(replace(run, lr=3e-4), 10)
    found = list[tuple[Progress, float]]()
    for k, other in enumerate((short, replace(short, lr=1.2e-3), replace(short, seed=short.seed + 1))):
        if k == 2 and not trainer.can.seeds:
            break
        found.append(one(trainer, f"check-{k + 1}", other, threads))
        if found[-1][0].status == "failed":
            raise UserError(f"The trainer's run of {short.steps} steps failed: {found[-1][0].error}.")
    losses = [p.loss for p, _ in found]
    if losses[0] == losses[1]:
        raise UserError(
            f"Two lrs, 3e-4 and 1.2e-3, gave the same loss of {losses[0]} after {short.steps} steps: the lr does not "
            "reach the trainer, or its losses have too few digits; put {lr} where it belongs."
        )
    said = [f"{short.steps} steps at lr 3e-4: loss {losses[0]}, {found[0][1]:.1f} s; at 1.2e-3: {losses[1]}"]
    if len(losses) > 2 and losses[0] == losses[2]:
        said.append("another seed gave the same loss: {seed} is ignored, and repeats say nothing")
    return said
