"""Batches as a pure function of the position: resuming and splitting over workers need no state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.data.masking import NOTHING
from trainer.data.shards import read_shard
from trainer.errors import UserError

ROUNDS = 4


class Batches:
    """An endless stream of windows of context + 1 tokens, shuffled anew each epoch; seed None: in order.

    A window never spans two shards; the last tokens of a shard that do not fill one are not used.
    """

    def __init__(self, shards: Sequence[Path], context: int, seed: int | None) -> None:
        self.context, self.seed = context, seed
        self.shards = [read_shard(path) for path in shards]
        windows = [max(0, (len(tokens) - 1) // context) for tokens in self.shards]
        self.ends = np.cumsum(windows)
        self.windows = int(self.ends[-1]) if windows else 0
        if not self.windows:
            raise UserError(
                f"The data holds no {context + 1} tokens in a row: use a larger corpus or a shorter context."
            )

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return self.windows * self.context

    def sequences(self, first: int, count: int) -> np.ndarray:
        """Windows first ... first + count - 1 of the stream: int64 [count, context + 1]."""
        result = np.empty((count, self.context + 1), np.int64)
        for row in range(count):
            epoch, index = divmod(first + row, self.windows)
            if self.seed is not None:
                index = permuted(index, self.windows, (self.seed, epoch))
            shard = int(np.searchsorted(self.ends, index, side="right"))
            result[row] = self._window(shard, index - (int(self.ends[shard - 1]) if shard else 0))
        return result

    def _window(self, shard: int, index: int) -> np.ndarray:
        """The window of this number in a shard."""
        start = index * self.context
        return self.shards[shard][start : start + self.context + 1]


class DocumentBatches(Batches):
    """An endless stream of documents, one a window: its first context + 1 tokens, end-of-text before it included, and
    NOTHING behind it where it is shorter."""

    def __init__(self, shards: Sequence[Path], context: int, seed: int | None, end_of_text: int) -> None:
        self.context, self.seed = context, seed
        self.shards = [read_shard(path) for path in shards]
        self.places = [_documents(tokens, end_of_text) for tokens in self.shards]
        self.ends = np.cumsum([len(places) for places in self.places])
        self.windows = int(self.ends[-1]) if len(self.ends) else 0
        if not self.windows:
            raise UserError("The data holds no document of two tokens: use a larger corpus or data.pack=stream.")

    def _window(self, shard: int, index: int) -> np.ndarray:
        start, end = self.places[shard][index]
        row = np.full(self.context + 1, NOTHING, np.int64)
        part = self.shards[shard][start : min(end, start + self.context + 1)]
        row[: len(part)] = part
        return row


def _documents(tokens: np.ndarray, end_of_text: int) -> np.ndarray:
    """[n, 2] beginning and end of each document with a token of its own."""
    starts = np.flatnonzero(np.asarray(tokens) == end_of_text)
    if not len(starts) or starts[0]:
        starts = np.concatenate([[0], starts])
    places = np.stack([starts, np.append(starts[1:], len(tokens))], axis=1)
    return places[places[:, 1] - places[:, 0] > 1]


def permuted(index: int, size: int, key: tuple[int, int]) -> int:
    """Where a keyed permutation of range(size) sends `index`, without ever building it.

    A Feistel network on the next even power of two, walked until it lands inside (cycle walking, Black and
    Rogaway 2002): 10 billion tokens need no table.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = _round_keys(key)
    while True:
        left, right = index >> half, index & mask
        for k in keys:
            mixed = (right + k) * 0x9E3779B97F4A7C15 & (2**64 - 1)
            mixed = (mixed ^ mixed >> 29) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
            left, right = right, left ^ (mixed >> 32 & mask)
        index = left << half | right
        if index < size:
            return index


_KEYS: dict[tuple[int, int], list[int]] = {}


def _round_keys(key: tuple[int, int]) -> list[int]:
    if key not in _KEYS:
        _KEYS[key] = [int(k) for k in np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)]
    return _KEYS[key]
