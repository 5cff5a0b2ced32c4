"""Trains the runs of an ablation, keeps a row of each as it ends, and finds every variant's own lr where asked."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from hpt.reports.numbers import duration, short
from hpt.studies.variants import Key, Runs
from trainer.architecture.counts import parameters, run_flops
from trainer.config import RunConfig, to_dict
from trainer.data import prepare
from trainer.errors import UserError
from trainer.files import read_json_lines
from trainer.inputs import check_data

Row = dict[str, Any]
FACTOR = 2.0
"""Between neighbouring lrs of a sweep."""
FURTHER = 2
"""Most lrs beyond a sweep's end, while the lowest loss lies there."""


@dataclass
class Trainer:
    """What is in runs.jsonl is not trained again."""

    path: Path
    console: Console
    tasks: tuple[str, ...] = ()
    task_limit: int = 0
    done: dict[str, Row] = field(default_factory=dict[str, Row])
    left_flops: float = 0.0
    """Of runs that are to be made still, for the time left."""

    def __post_init__(self) -> None:
        if self.path.exists():
            self.done = {json.dumps(row.get("run")): row for row in read_json_lines(self.path)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.seconds = self.flops = 0.0

    def known(self, run: RunConfig) -> Row | None:
        """The row of a run that was made, with scores of all the tasks."""
        row = self.done.get(_key(run))
        scored = {name.partition("/")[0] for name in (row or {}).get("scores", {})}
        whole = row is not None and (row["loss"] is None or scored >= set(self.tasks))
        return row if whole else None

    def row(self, key: Key, run: RunConfig, stage: str = "") -> Row:
        """Of the run, which is trained if need be."""
        name, level, seed = key
        if (known := self.known(run)) is None:
            began = time.monotonic()
            with self.console.status(f"{name}, level {level:g}, seed {seed}"):
                known = self._trained(run)
            self.seconds, self.flops = self.seconds + time.monotonic() - began, self.flops + run_flops(run)
            self.left_flops = max(0.0, self.left_flops - run_flops(run))
            where = {"variant": name, "level": level, "seed": seed, **({"stage": stage} if stage else {})}
            known = self.done[_key(run)] = {**where, **known}
            with self.path.open("a") as file:
                file.write(json.dumps(known) + "\n")
            result = f"{known['loss']:.4f}" if known["loss"] is not None else known["reason"]
            left = duration(self.seconds / self.flops * self.left_flops)
            at = f", lr {run.lr:.2g}" if stage else ""
            self.console.print(f"{name}, {short(parameters(run.model).total)}, seed {seed}{at}: {result}; {left} left")
        return {**known, "variant": name, "level": level}

    def _trained(self, run: RunConfig) -> Row:
        from trainer.evals.suite import Suite
        from trainer.loop import Training

        data = prepare(run.data, vocabulary=run.model.vocabulary)
        check_data(run, data)
        suite = Suite.of(self.tasks, data, self.task_limit)
        training = Training(run, data)
        *_, last = training.reports()
        row: Row = {"flops": run_flops(run), "loss": last.val_loss, "seconds": last.seconds, "status": last.status}
        if suite is not None and last.val_loss is not None:
            row["scores"] = suite.scores(training.model, run)
            row["task_flops"] = suite.reading(run).flops(run)
        if last.reason:
            row["reason"] = last.reason
        return {**row, "run": json.loads(_key(run))}


def _key(run: RunConfig) -> str:
    return json.dumps(json.loads(json.dumps(to_dict(run))))


def sweep(runs: Runs, count: int) -> dict[str, list[tuple[Key, RunConfig]]]:
    """By variant, `count` lrs about the one that the plan has, at the lowest level and the first seed."""
    level, seed = min(level for _, level, _ in runs), min(seed for *_, seed in runs)
    found = dict[str, list[tuple[Key, RunConfig]]]()
    for key, run in runs.items():
        if key[1:] == (level, seed):
            assert run.lr is not None
            lrs = [run.lr * FACTOR ** (i - (count - 1) / 2) for i in range(count)]
            found[key[0]] = [(key, replace(run, lr=lr)) for lr in lrs]
    return found


def tuned(trainer: Trainer, runs: Runs, count: int) -> tuple[Runs, dict[str, float]]:
    """The same runs, each variant at its own lr at every level, and by what factor each was moved. A sweep whose lowest
    loss lies at an end is taken further, FURTHER times at most."""
    factors = dict[str, float]()
    for name, planned in sweep(runs, count).items():
        key, middle = planned[0][0], runs[planned[0][0]].lr or 0.0
        losses = {run.lr or 0.0: trainer.row(key, run, "tune")["loss"] for _, run in planned}
        for _ in range(FURTHER):
            lrs, best = sorted(losses), lowest(losses)
            if best not in (lrs[0], lrs[-1]):
                break
            beyond = best * (FACTOR if best == lrs[-1] else 1 / FACTOR)
            losses[beyond] = trainer.row(key, replace(planned[0][1], lr=beyond), "tune")["loss"]
        if all(loss is None for loss in losses.values()):
            raise UserError(f"{name}: all runs of its sweep diverged: lower --lr.")
        factors[name] = minimum(losses) / middle
    moved = {key: replace(run, lr=(run.lr or 0.0) * factors[key[0]]) for key, run in runs.items()}
    return moved, factors


def lowest(losses: dict[float, float | None]) -> float:
    return min(losses, key=lambda lr: math.inf if losses[lr] is None else losses[lr] or 0.0)


def minimum(losses: dict[float, float | None]) -> float:
    """The lr at the bottom of the parabola through the lowest loss and its neighbours, in ln lr; the lowest itself at
    an end, or beside one that diverged."""
    lrs, best = sorted(losses), lowest(losses)
    at = lrs.index(best)
    near = lrs[max(0, at - 1) : at + 2]
    if len(near) < 3 or any(losses[lr] is None for lr in near):
        return best
    a, b, _ = np.polyfit(np.log(near), [losses[lr] or 0.0 for lr in near], 2)
    return float(np.exp(np.clip(-b / (2 * a), math.log(near[0]), math.log(near[-1])))) if a > 0 else best
