"""Heads trained with the whole model: epochs over a task's rows, the best one kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tiktoken
import torch
from torch import Tensor, nn

from trainer.architecture.model import Transformer
from trainer.config import RunConfig
from trainer.devices import use_bf16
from trainer.evals.score import Score
from trainer.finetune.labelhead import Labels
from trainer.finetune.reading import Reader
from trainer.finetune.spanhead import Spans
from trainer.optimizer import make_optimizer, set_lr
from trainer.schedule import multiplier
from trainer.tasks import Example, Task

CHUNK = 8  # batches, within which examples are sorted by length


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    lr: float
    epochs: int = 3
    batch: int = 32
    """Examples a step."""
    length: int | None = None
    """Tokens of a row; None: LENGTHS. Never more than the model's context."""
    seed: int = 0
    patience: int | None = None
    """Epochs without a better score after which it ends."""
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How it went."""

    scores: list[Score]
    """On the validation split, of the best epoch by the leading metric."""
    epoch: int
    curve: list[float]
    """The leading metric after each epoch."""
    losses: list[float]
    seconds: float
    tokens: int
    diverged: bool = False
    tensors: dict[str, Tensor] = field(repr=False, default_factory=dict[str, Tensor])
    """Of the best epoch: model.* and head.*."""


LENGTHS = {"label": 128, "value": 128, "span": 384}
READERS: dict[str, type[Reader]] = {"label": Labels, "value": Labels, "span": Spans}
"""By the kind of a task; "text" has no head."""


@dataclass
class HeadTraining:
    """One task, one seed. Everything depends on the weights, the examples and the settings alone."""

    model: Transformer
    """Its weights are changed."""
    run: RunConfig
    encoding: tiktoken.Encoding
    task: Task
    settings: HeadSettings

    def __post_init__(self) -> None:
        device, settings = self.model.embedding.weight.device, self.settings
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=use_bf16(self.run, device))
        self.length = min(settings.length or LENGTHS[self.task.kind], self.model.config.context)
        self.reader = READERS[self.task.kind](
            self.model, self.encoding, self.task, self.length, settings.dropout, settings.seed, autocast
        )
        self.head, self.counts, self.tokens = self.reader.head, self.reader.counts, 0

    def train(
        self, train: Sequence[Example], validation: Sequence[Example], say: Callable[[str], None] = lambda text: None
    ) -> Tuned:
        began, settings, device = time.perf_counter(), self.settings, self.reader.device
        rows = self.reader.prepare(train)
        steps = math.ceil(len(rows) / settings.batch) * settings.epochs
        schedule, optimizer = self._optimizer(steps)
        best = Tuned(scores=[], epoch=0, curve=[], losses=[], seconds=0.0, tokens=0, diverged=True)
        curve, losses, step = list[float](), list[float](), 0
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(settings.seed)  # of the head's dropout
            for epoch in range(settings.epochs):
                total = 0.0
                for members in batches(rows, settings.batch, (settings.seed, epoch)):
                    set_lr(optimizer, settings.lr * multiplier(schedule, step))
                    total += self._step(optimizer, [rows[i] for i in members], members) * len(members)
                    step += 1
                losses.append(total / len(rows))
                if not math.isfinite(losses[-1]):
                    break
                found = self.reader.score(validation)
                curve.append(found[0].value)
                say(f"epoch {epoch + 1}: loss {losses[-1]:.4f}, {found[0].name} {found[0].value:.4f}")
                if not best.scores or found[0].value > best.scores[0].value:
                    best = replace(best, scores=found, epoch=epoch + 1, tensors=self.tensors(), diverged=False)
                if settings.patience is not None and epoch + 1 - best.epoch >= settings.patience:
                    break
        return replace(best, curve=curve, losses=losses, seconds=time.perf_counter() - began, tokens=self.tokens)

    def _optimizer(self, steps: int) -> tuple[RunConfig, torch.optim.Optimizer]:
        """A schedule of BabyLM's shape (6 % warmup, cosine to a tenth), and AdamW with pretraining's scales of lr."""
        unit = self.run.model.context
        schedule = replace(
            self.run, tokens=steps * unit, batch=unit, warmup=round(0.06 * steps) * unit, schedule="cosine",
            final_fraction=0.1, weight_decay=0.01, betas=(0.9, 0.999), lr=self.settings.lr,
        )  # fmt: skip
        optimizer = make_optimizer(self.model, schedule)
        optimizer.add_param_group(
            {"params": list(self.head.parameters()), "lr": 0.0, "lr_scale": 1.0, "weight_decay": 0.01}
        )
        return schedule, optimizer

    def _step(self, optimizer: torch.optim.Optimizer, rows: list[list[int]], members: np.ndarray) -> float:
        self.model.train()
        self.head.train()
        self.tokens += sum(map(len, rows))
        loss = self.reader.loss(rows, members)
        loss.backward()
        parameters = [*self.model.parameters(), *self.head.parameters()]
        nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], self.run.clip or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def tensors(self) -> dict[str, Tensor]:
        held = {f"model.{name}": p for name, p in self.model.named_parameters()}
        held |= {f"head.{name}": p for name, p in self.head.named_parameters()}
        return {name: tensor.detach().cpu().clone() for name, tensor in held.items()}


def batches(rows: Sequence[Sequence[int]], size: int, seed: tuple[int, int]) -> Iterator[np.ndarray]:
    """Indices of each batch of an epoch: shuffled, then alike in length within a few batches (less padding), whose
    order is shuffled again."""
    rng = np.random.default_rng(seed)
    order, found = rng.permutation(len(rows)), list[np.ndarray]()
    for start in range(0, len(order), CHUNK * size):
        chunk = np.array(sorted(order[start : start + CHUNK * size], key=lambda i: len(rows[i])))
        found += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    yield from (found[i] for i in rng.permutation(len(found)))
