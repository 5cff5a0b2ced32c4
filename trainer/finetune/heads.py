"""Heads for classification and regression, trained with the whole model: the last token of a causal model, the first
of a masked one, through BabyLM's small network (evaluation pipeline of 2025)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tiktoken
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.architecture.model import Transformer
from trainer.config import RunConfig
from trainer.devices import use_bf16
from trainer.evals.score import Score
from trainer.finetune.encoding import Counts, fit_source
from trainer.optimizer import make_optimizer, set_lr
from trainer.schedule import multiplier
from trainer.tasks import Example, Task
from trainer.tasks.labels import scores, truth

CHUNK = 8  # batches, within which examples are sorted by length


@dataclass(frozen=True, kw_only=True)
class HeadSettings:
    lr: float
    epochs: int = 3
    batch: int = 32
    """Examples a step."""
    length: int = 128
    """Tokens that are read of each."""
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


class Head(nn.Module):
    """features [B, C] -> [B, classes]."""

    def __init__(self, width: int, classes: int, dropout: float, seed: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.Dropout(dropout),
            nn.Linear(width, classes),
        )  # fmt: skip
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


def encoded(encoding: tiktoken.Encoding, examples: Sequence[Example], length: int, counts: Counts) -> list[list[int]]:
    """End-of-text, source, what is behind it, end-of-text: at most `length` tokens, the source shortened first."""
    end, found = encoding.eot_token, list[list[int]]()
    for example in examples:
        after = encoding.encode_ordinary(example.after)
        source, cut = fit_source(encoding, Example(source=example.source), max(0, length - 2 - len(after)))
        lost = max(0, len(after) - (length - 2 - len(source)))
        found.append([end, *source, *after[: len(after) - lost], end])
        counts.examples, counts.shortened = counts.examples + 1, counts.shortened + (cut + lost > 0)
        counts.lost += cut + lost
    return found


def pooled(model: Transformer, rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    """Features [B, C] of the token that the head reads. Nothing sees padding: it lies behind, or is a document of its
    own."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    width = int(lengths.max())
    tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    if model.config.causal:
        return model.features(tokens)[torch.arange(len(rows), device=device), lengths - 1]
    padding = (torch.arange(width, device=device) >= lengths[:, None]).long()
    return model.features(tokens, padding)[:, 0]


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
        self.value, self.device = self.task.kind == "value", self.model.embedding.weight.device
        classes = 1 if self.value else len(self.task.labels)
        head = Head(self.run.model.width, classes, self.settings.dropout, self.settings.seed)
        self.head = head.to(self.device)
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=use_bf16(self.run, self.device))
        self.counts, self.tokens = Counts(), 0
        self.mean, self.spread = 0.0, 1.0

    def train(
        self, train: Sequence[Example], validation: Sequence[Example], say: Callable[[str], None] = lambda text: None
    ) -> Tuned:
        began, settings = time.perf_counter(), self.settings
        rows, labels = encoded(self.encoding, train, settings.length, self.counts), truth(train)
        held = encoded(self.encoding, validation, settings.length, Counts())
        if self.value:
            self.mean, self.spread = float(labels.mean()), float(labels.std()) or 1.0
        steps = math.ceil(len(rows) / settings.batch) * settings.epochs
        schedule, optimizer = self._optimizer(steps)
        best = Tuned(scores=[], epoch=0, curve=[], losses=[], seconds=0.0, tokens=0, diverged=True)
        curve, losses, step = list[float](), list[float](), 0
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(settings.seed)  # of the head's dropout
            for epoch in range(settings.epochs):
                total = 0.0
                for members in batches(rows, settings.batch, (settings.seed, epoch)):
                    set_lr(optimizer, settings.lr * multiplier(schedule, step))
                    total += self._step(optimizer, [rows[i] for i in members], labels[members]) * len(members)
                    step += 1
                losses.append(total / len(rows))
                if not math.isfinite(losses[-1]):
                    break
                found = self.evaluate(held, validation)
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

    def _step(self, optimizer: torch.optim.Optimizer, rows: list[list[int]], labels: np.ndarray) -> float:
        self.model.train()
        self.head.train()
        self.tokens += sum(map(len, rows))
        with self.autocast:
            logits = self.head(pooled(self.model, rows, self.encoding.eot_token, self.device)).float()
        if self.value:
            wanted = torch.tensor((labels - self.mean) / self.spread, dtype=torch.float32, device=self.device)
            loss = F.mse_loss(logits[:, 0], wanted)
        else:
            loss = F.cross_entropy(logits, torch.tensor(labels, dtype=torch.int64, device=self.device))
        loss.backward()
        parameters = [*self.model.parameters(), *self.head.parameters()]
        nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], self.run.clip or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    @torch.no_grad()
    def evaluate(self, rows: Sequence[list[int]], examples: Sequence[Example]) -> list[Score]:
        predicted, chance = self.predict(rows)
        return scores(self.task.metrics, examples, predicted, chance)

    @torch.no_grad()
    def predict(self, rows: Sequence[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """[n] classes (or values), [n] the probability of class 1 (or the value)."""
        self.model.eval()
        self.head.eval()
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = np.empty((len(rows), 1 if self.value else len(self.task.labels)))
        for start in range(0, len(rows), 64):
            some = order[start : start + 64]
            with self.autocast:
                features = pooled(self.model, [rows[i] for i in some], self.encoding.eot_token, self.device)
                logits = self.head(features)
            found[some] = logits.float().cpu().numpy()
        if self.value:
            values = found[:, 0] * self.spread + self.mean
            return values, values
        odds = np.exp(found - found.max(1, keepdims=True))
        return found.argmax(1).astype(float), odds[:, 1] / odds.sum(1)

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
