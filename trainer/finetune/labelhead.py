"""A head for classes or values: the last token of a causal model, the first of a masked one, through BabyLM's small
network (evaluation pipeline of 2025)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tiktoken
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.architecture.model import Transformer
from trainer.evals.score import Score
from trainer.finetune.encoding import Counts, fit_source
from trainer.finetune.reading import Reader, features
from trainer.tasks import Example
from trainer.tasks.labels import scores, truth


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
    """Features [B, C] of the token that the head reads."""
    found, lengths = features(model, rows, pad, device)
    return found[torch.arange(len(rows), device=device), lengths - 1] if model.config.causal else found[:, 0]


class Labels(Reader):
    """Classes, or with kind "value" numbers, which are trained at mean 0 and deviation 1."""

    mean, spread = 0.0, 1.0

    @property
    def value(self) -> bool:
        return self.task.kind == "value"

    def make_head(self) -> nn.Module:
        classes = 1 if self.value else len(self.task.labels)
        return Head(self.model.config.width, classes, self.dropout, self.seed)

    def prepare(self, examples: Sequence[Example]) -> list[list[int]]:
        self.labels = truth(examples)
        if self.value:
            self.mean, self.spread = float(self.labels.mean()), float(self.labels.std()) or 1.0
        return encoded(self.encoding, examples, self.length, self.counts)

    def logits(self, rows: Sequence[list[int]]) -> Tensor:
        """[B, classes]."""
        with self.autocast:
            return self.head(pooled(self.model, rows, self.encoding.eot_token, self.device)).float()

    def loss(self, rows: Sequence[list[int]], members: np.ndarray) -> Tensor:
        logits, labels = self.logits(rows), self.labels[members]
        if self.value:
            wanted = torch.tensor((labels - self.mean) / self.spread, dtype=torch.float32, device=self.device)
            return F.mse_loss(logits[:, 0], wanted)
        return F.cross_entropy(logits, torch.tensor(labels, dtype=torch.int64, device=self.device))

    def score(self, examples: Sequence[Example]) -> list[Score]:
        return scores(self.task.metrics, examples, *self.predict(examples))

    def predict(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
        """[n] classes (or values), [n] the probability of class 1 (or the value)."""
        found = np.concatenate(self.in_batches(encoded(self.encoding, examples, self.length, Counts()), self._numbers))
        if self.value:
            values = found[:, 0] * self.spread + self.mean
            return values, values
        odds = np.exp(found - found.max(1, keepdims=True))
        return found.argmax(1).astype(float), odds[:, 1] / odds.sum(1)

    def _numbers(self, rows: Sequence[list[int]]) -> list[np.ndarray]:
        return list(self.logits(rows).cpu().numpy()[:, None])
