"""The tasks that every trial of a search, or every run of an ablation, is scored on once it is trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from trainer.architecture.model import Transformer
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.data.tokenizer import load_tokenizer
from trainer.devices import pick_device, use_bf16
from trainer.errors import UserError
from trainer.evals.evaluators import EVALUATORS, evaluate, locate
from trainer.evals.likelihood import Scorer, cut
from trainer.evals.score import LIMIT, Reading

SAMPLE = 8
"""Items of each task by which its time is measured."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks with their files, and the tokenizer that they are read by."""

    files: Mapping[str, Path]
    limit: int
    tokenizer: str

    @staticmethod
    def of(tasks: Sequence[str], data: Prepared, limit: int = LIMIT) -> Suite | None:
        """None without tasks; UserError for one that is not known, or whose file is not here."""
        for task in tasks:
            if task not in EVALUATORS or task == "val":
                known = ", ".join(name for name in EVALUATORS if name != "val")
                raise UserError(f"--tasks {task}: no task of that name is scored on trials; choose from {known}.")
        if not tasks:
            return None
        if limit < 1:
            raise UserError(f"--task-limit {limit} must be at least 1.")
        files = {task: path for task in tasks if (path := locate(task, None, download=False)) is not None}
        load_tokenizer(data.tokenizer)  # tells at once when it cannot be had
        return Suite(files=files, limit=limit, tokenizer=data.tokenizer)

    @torch.no_grad()
    def scores(self, model: Transformer, run: RunConfig) -> dict[str, float]:
        """By TASK/SCORE; of a task's parts (BLiMP's phenomena) none."""
        encoding, found = load_tokenizer(self.tokenizer), dict[str, float]()
        device, training = model.embedding.weight.device, model.training
        model.eval()
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(run, device)):
            for task, file in self.files.items():
                file = file if file.exists() else locate(task, None, download=False)  # another node has its own
                scores = evaluate(model, encoding, task, file, self.limit)
                found |= {f"{task}/{score.name}": score.value for score in scores if "/" not in score.name}
        model.train(training)
        return found

    def reading(self, run: RunConfig) -> Reading:
        """What a model of this context reads for all tasks."""
        counting = _Counting(model=_Shape(run), encoding=load_tokenizer(self.tokenizer))  # type: ignore[arg-type]
        for task, file in self.files.items():
            EVALUATORS[task].score(counting, file, self.limit)
        tokens, asked = counting.seen
        return Reading(tokens, asked / max(1, tokens))

    def seconds(self, run: RunConfig) -> float:
        """That it takes here, by a few items of each task."""
        tokens = self.reading(run).tokens
        model, some = Transformer(run).to(pick_device()), replace(self, limit=min(SAMPLE, self.limit))
        some.scores(model, run)  # caches and allocators are cold
        began = time.perf_counter()
        some.scores(model, run)
        return (time.perf_counter() - began) * tokens / max(1, some.reading(run).tokens)


class _Shape:
    """What a scorer that only counts asks of a model."""

    def __init__(self, run: RunConfig) -> None:
        self.config = run.model


@dataclass(frozen=True, kw_only=True)
class _Counting(Scorer):
    """Counts the tokens that it would read, and those that it would ask for."""

    seen: list[int] = field(default_factory=lambda: [0, 0])

    def of_tokens(self, pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[np.ndarray, np.ndarray]:
        context, causal = self.model.config.context, self.model.config.causal
        for pair in pairs:
            for tokens, count in cut(*pair, context if causal else context - 1):
                self.seen[0] += len(tokens) - 1 if causal else len(tokens) * count
                self.seen[1] += count
        return np.zeros(len(pairs)), np.ones(len(pairs), bool)
