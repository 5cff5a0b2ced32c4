"""hpt.finetune --heads: a head a task, several seeds, beside the commonest label, in one table."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hpt.finetuning.settings import Given, examples_of, tokenizer_fits
from hpt.reports.numbers import short
from hpt.tracking.mirror import FinalMirror, Logger
from hpt.tracking.told import FinalRun
from trainer.checkpoints.file import save_checkpoint
from trainer.checkpoints.trained import Trained, open_trained
from trainer.config import to_dict
from trainer.data.tokenizer import NAMED, to_json
from trainer.errors import UserError
from trainer.evals.score import Score
from trainer.files import read_json, write_atomic
from trainer.finetune.answering import baseline
from trainer.finetune.heads import HeadSettings, HeadTraining, Tuned
from trainer.tasks import TASKS, Example, Task
from trainer.tasks.labels import majority, scores
from trainer.tasks.squad import NONE

Result = dict[str, Any]
KEPT = "heads.json"


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What to train and where to keep it."""

    source: str
    out: Path
    settings: HeadSettings
    seeds: int
    limit: int | None
    download: bool
    uri: str
    log: tuple[Logger, ...] = ()


def tune_heads(plan: Heads, trained: Trained, tasks: Sequence[Task], given: Given, console: Console) -> dict[str, Any]:
    """Results by task, which KEPT in the run's directory keeps: what is there already is not trained again."""
    tokenizer_fits(trained)
    for task in tasks:
        if task.kind == "text":
            others = ", ".join(name for name, known in TASKS.items() if known.kind != "text")
            raise UserError(
                f"--heads needs labels or answers that stand in the text, and {task.name} is written: leave --heads "
                f"out, or {others}."
            )
    kept = plan.out / KEPT
    if trained.encoding.name not in NAMED:
        write_atomic(plan.out / "tokenizer.json", to_json(trained.encoding).encode())
    results: dict[str, Any] = read_json(kept) if kept.is_file() else {}
    for task in tasks:
        train, validation = examples_of(
            task, given.get(task.name, {}), plan.download, plan.limit, console.print, heads=True
        )
        mark = _mark(plan, task, trained, train, validation)
        if results.get(task.name, {}).get("mark") != mark:
            results[task.name] = _new(task, train, validation, mark)
        for seed in range(plan.settings.seed, plan.settings.seed + plan.seeds):
            if str(seed) not in results[task.name]["seeds"]:
                results[task.name]["seeds"][str(seed)] = _one(plan, task, seed, train, validation, console)
                write_atomic(kept, json.dumps(results, indent=1).encode())  # after each: what is done stays done
    return {task.name: results[task.name] for task in tasks}


def _mark(plan: Heads, task: Task, trained: Trained, train: Sequence[Example], validation: Sequence[Example]) -> str:
    """Names everything that a result depends on but the seed."""
    described = [to_dict(trained.run), trained.step, asdict(replace(plan.settings, seed=0))]
    digest = hashlib.blake2b(json.dumps(described).encode(), digest_size=8)
    for example in (*train, *validation):
        digest.update(repr((example.source, example.after, example.label)).encode())
        if task.kind == "span":
            digest.update(repr((example.answers, example.keep)).encode())
    return digest.hexdigest()


def _new(task: Task, train: Sequence[Example], validation: Sequence[Example], mark: str) -> Result:
    floor = {s.name: s.value for s in floors(task, train, validation)}
    return {"mark": mark, "train": len(train), "validation": len(validation), "majority": floor, "seeds": {}}


def floors(task: Task, train: Sequence[Example], validation: Sequence[Example]) -> list[Score]:
    """What no model is needed for: the commonest label; of answers in a text its first words, or none at all."""
    if task.kind != "span":
        return scores(task.metrics, validation, majority(validation, train, task.kind == "value"))
    said = [baseline(task, validation), *([[NONE] * len(validation)] if task.may_be_none else [])]
    found = [[s for s in task.texts(validation, texts) if "/" not in s.name] for texts in said]
    return max(found, key=lambda some: some[0].value)


def _one(
    plan: Heads, task: Task, seed: int, train: Sequence[Example], validation: Sequence[Example], console: Console
) -> Result:
    trained = open_trained(plan.source)  # fresh weights: training changes them
    settings = replace(plan.settings, seed=seed)
    training = HeadTraining(trained.model, trained.run, trained.encoding, task, settings)
    console.print(f"{task.name}, seed {seed}: {len(train):,} examples, {len(validation):,} held out")
    began = time.time()
    tuned = training.train(train, validation, lambda text: console.print(f"  {text}"))
    if tuned.diverged:
        raise UserError(f"{task.name} diverged at lr {settings.lr:.3g}: try --lr {settings.lr / 3:.2g}.")
    file = plan.out / "heads" / f"{task.name}-{seed}.safetensors"
    about = {"task": task.name, "labels": task.labels, "epoch": tuned.epoch}
    save_checkpoint(file, tuned.tensors, {"step": trained.step, "run": to_dict(trained.run), **about})
    cut = training.counts
    if cut.shortened:
        console.print(f"  {cut.shortened:,} of {cut.examples:,} examples were longer than {training.length} tokens")
    found = {
        "scores": {s.name: s.value for s in tuned.scores},
        "errors": {s.name: s.standard_error for s in tuned.scores},
        "epoch": tuned.epoch,
        "curve": tuned.curve,
        "losses": tuned.losses,
        "seconds": tuned.seconds,
        "tokens_per_second": tuned.tokens / tuned.seconds,
        "shortened": cut.shortened,
        "checkpoint": str(file),
    }
    _mirror(plan, task, seed, trained, tuned, found, began)
    return found


def _mirror(plan: Heads, task: Task, seed: int, trained: Trained, tuned: Tuned, found: Result, began: float) -> None:
    run = replace(trained.run, lr=plan.settings.lr, seed=seed)
    tags = {"hpt.role": "head", "hpt.task": task.name, "hpt.finetuned": plan.source}
    final = FinalRun(id=uuid.uuid4().hex, experiment=plan.out.name, uri=plan.uri, tags=tags, run=run,
                     folder=plan.out / "heads" / f"{task.name}-{seed}", log=plan.log)  # fmt: skip
    mirror = FinalMirror(final, lambda text: None)
    rows = [
        {"tokens": epoch, "train_loss": loss, "scores": {f"{task.name}_{tuned.scores[0].name}": value}}
        for epoch, (loss, value) in enumerate(zip(tuned.losses, tuned.curve, strict=False), start=1)
    ]
    mirror.rows(rows)
    result = {"status": "finished", "checkpoint": found["checkpoint"], "seconds": time.time() - began}
    mirror.close(result | {f"best_{name}": value for name, value in found["scores"].items()}, {})


def table(results: Mapping[str, Result], title: str) -> Table:
    """A row a metric: mean over seeds, their deviation, and the baseline's."""
    out = Table(box=SIMPLE, title=title, title_justify="left")
    for header in ("task", "metric", "mean", "sd", "baseline", "seeds", "best epoch", "examples", "tokens/s"):
        out.add_column(header, justify="left" if header in ("task", "metric") else "right")
    for task, result in results.items():
        seeds = list(result["seeds"].values())
        for i, (name, value) in enumerate(result["majority"].items()):
            values = [seed["scores"][name] for seed in seeds]
            sd = f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            epochs = ",".join(str(seed["epoch"]) for seed in seeds)
            first = [str(len(seeds)), epochs, f"{result['train']:,}/{result['validation']:,}",
                     short(float(np.mean([seed["tokens_per_second"] for seed in seeds])))]  # fmt: skip
            out.add_row("" if i else task, name, f"{np.mean(values):.4f}", sd, f"{value:.4f}",
                        *(first if i == 0 else [""] * 4))  # fmt: skip
    return out


def warnings(results: Mapping[str, Result]) -> list[str]:
    """Of tasks whose leading metric is not above the baseline's."""
    found = []
    for task, result in results.items():
        name, floor = next(iter(result["majority"].items()))
        mean = float(np.mean([seed["scores"][name] for seed in result["seeds"].values()]))
        if mean <= floor:
            found.append(f"{task}: {name} {mean:.4f} is no better than the baseline's {floor:.4f}")
    return found
