"""What a model reads and what it is asked for: batches of tokens under the run's objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.config import RunConfig
from trainer.data import Prepared, check_enough
from trainer.data.batches import Batches, DocumentBatches
from trainer.data.masking import NOTHING, Masking
from trainer.data.packed import RowBatches
from trainer.errors import UserError

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Sequences of one batch, [B, T] each."""

    tokens: np.ndarray
    targets: np.ndarray
    """NOTHING where no token is asked for."""
    documents: np.ndarray | None = None
    """Numbers of the documents, where attention must not cross them."""

    @property
    def asked(self) -> np.ndarray:
        """Targets of each sequence [B]."""
        return (self.targets != NOTHING).sum(1)

    def part(self, rows: slice) -> Inputs:
        documents = None if self.documents is None else self.documents[rows]
        return Inputs(self.tokens[rows], self.targets[rows], documents)

    def to(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        tokens, targets = _moved(self.tokens, device), _moved(self.targets, device)
        return tokens, targets, None if self.documents is None else _moved(self.documents, device)


def stacked(parts: Sequence[Inputs]) -> Inputs:
    """Of the same run, one behind the other."""
    documents = [part.documents for part in parts if part.documents is not None]
    tokens, targets = (np.concatenate([getattr(part, name) for part in parts]) for name in ("tokens", "targets"))
    return Inputs(tokens, targets, np.concatenate(documents) if documents else None)


def check_data(run: RunConfig, data: Prepared) -> None:
    """UserError for a run that this data cannot feed: too few tokens or documents, no id for a mask."""
    check_enough(data, run.data, run.tokens, run.model.context)
    if run.objective == "masked":
        masking(run, data)


def train_batches(run: RunConfig, data: Prepared) -> Batches:
    return _batches(run, data, True)


def val_batches(run: RunConfig, data: Prepared) -> Batches:
    """In order."""
    return _batches(run, data, False)


def _batches(run: RunConfig, data: Prepared, train: bool) -> Batches:
    shards, seed = (data.train, run.seed) if train else (data.val, None)
    if run.data.pack == "rows":
        return RowBatches(shards, run.model.context, seed)
    if run.data.pack == "documents":
        return DocumentBatches(shards, run.model.context, seed, data.end_of_text)
    return Batches(shards, run.model.context, seed)


def make_inputs(run: RunConfig, data: Prepared, batches: Batches, first: int, count: int) -> Inputs:
    """Windows first ... first + count - 1 of a stream. Of the next-token objective the targets are the tokens behind;
    masked, each window's last token is left out."""
    if isinstance(batches, RowBatches):
        return Inputs(*batches.rows(first, count))
    sequences = batches.sequences(first, count)
    tokens, targets = sequences[:, :-1], sequences[:, 1:]
    padding = tokens == NOTHING if run.data.pack == "documents" else None
    if run.objective == "masked":
        tokens, targets = masking(run, data).apply(tokens, first, batches.seed)
    if padding is not None:
        tokens = np.where(padding, data.end_of_text, tokens)
        # Of a causal model nothing looks at padding, which lies behind.
        documents = padding.astype(np.int64) if not run.model.causal else None
        return Inputs(tokens, targets, documents)
    documents = (sequences[:, :-1] == data.end_of_text).cumsum(1) if run.data.mask_documents else None
    return Inputs(tokens, targets, documents)


def masking(run: RunConfig, data: Prepared) -> Masking:
    """The mask token's id is the first behind the tokenizer's; UserError where the model has no row for it."""
    if run.model.vocabulary <= data.vocabulary:
        raise UserError(
            f"objective=masked needs a row of the embedding for the mask token beside the tokenizer's "
            f"{data.vocabulary:,} ids: use --set model.vocabulary={data.vocabulary + 1} or a smaller tokenizer."
        )
    masked, random = run.mask_shares
    return Masking(
        rate=run.mask_rate, masked=masked, random=random, token=data.vocabulary, vocabulary=data.vocabulary,
        end_of_text=data.end_of_text,
    )  # fmt: skip


def model_inputs(
    run: RunConfig, data: Prepared, sequences: np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Of the next-token objective on a stream: sequences [B, context + 1] -> (tokens [B, T], targets [B, T], document
    numbers [B, T] where they matter)."""
    batch = _moved(sequences, device)
    tokens, targets = batch[:, :-1], batch[:, 1:]
    documents = (tokens == data.end_of_text).cumsum(1) if run.data.mask_documents else None
    return tokens, targets, documents


def _moved(array: np.ndarray, device: torch.device) -> Tensor:
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
