"""What a head reads of a model, and what it says; each kind of task has its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import tiktoken
import torch
from torch import Tensor, nn

from trainer.architecture.model import Transformer
from trainer.evals.score import Score
from trainer.finetune.encoding import Counts
from trainer.tasks import Example, Task

ROWS = 64
"""Of a forward pass that scores."""
T = TypeVar("T")


@dataclass
class Reader(ABC):
    """One task's head on one model."""

    model: Transformer
    encoding: tiktoken.Encoding
    task: Task
    length: int
    """Tokens of a row, at most."""
    dropout: float
    seed: int
    autocast: Any
    counts: Counts = field(default_factory=Counts)
    head: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.head = self.make_head().to(self.device)

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    @abstractmethod
    def make_head(self) -> nn.Module:
        """On features [..., C], its weights drawn by `seed`."""

    @abstractmethod
    def prepare(self, examples: Sequence[Example]) -> list[list[int]]:
        """Rows of tokens to train on, at most `length` each; what is right for them is kept."""

    @abstractmethod
    def loss(self, rows: Sequence[list[int]], members: np.ndarray) -> Tensor:
        """Mean loss of rows, which are `members` of those prepared."""

    @abstractmethod
    def score(self, examples: Sequence[Example]) -> list[Score]:
        """On held-out examples, the leading metric first."""

    def in_batches(self, rows: Sequence[list[int]], read: Callable[[Sequence[list[int]]], Sequence[T]]) -> list[T]:
        """read(some rows) -> something for each, over all rows, those of one length together; in the rows' order."""
        self.model.eval()
        self.head.eval()
        order, found = sorted(range(len(rows)), key=lambda i: len(rows[i])), dict[int, T]()
        with torch.no_grad():
            for start in range(0, len(rows), ROWS):
                some = order[start : start + ROWS]
                found |= zip(some, read([rows[i] for i in some]), strict=True)
        return [found[i] for i in range(len(rows))]


def features(
    model: Transformer, rows: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features [B, T, C] of rows, and their lengths [B]. Nothing sees padding: it lies behind, or is a document of its
    own."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    width = int(lengths.max())
    tokens = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    if model.config.causal:
        return model.features(tokens), lengths
    padding = (torch.arange(width, device=device) >= lengths[:, None]).long()
    return model.features(tokens, padding), lengths
