"""What a table's batch counts: tokens, sequences, or what one device takes in one pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.replay.columns import PER_DEVICE, stripped
from search.replay.files import number

STEP_LAW_CONTEXT = 2048  # tokens: their column `bs` counts sequences
PER_PASS = ("batch_size", "train_batch_size")
"""Beside a column of accumulated passes, what one of these is (nanoGPT's counts those of all devices together)."""


@dataclass(frozen=True)
class Batches:
    """How a step's tokens are counted."""

    unit: int
    """Tokens of one that is counted."""
    factors: tuple[str, ...] = ()
    """Keys of the columns that are multiplied with the batch."""

    def tokens(self, values: Mapping[str, Any]) -> float:
        return math.prod(number(values[key]) for key in ("batch", *self.factors)) * self.unit

    def note(self, names: Mapping[str, str | None]) -> str:
        if not self.factors:
            return f"{names['batch']} counts sequences of {self.unit} tokens." if self.unit > 1 else ""
        by = " x ".join(str(names[key]) for key in self.factors)
        return f"A step's tokens are {names['batch']} x {by}{f' x {self.unit}' if self.unit > 1 else ''}."


NEIGHBOURS = ("context", "accumulation", "workers")
"""Columns beside a batch that may say what it counts."""


def batches(records: list[dict[str, Any]], names: Mapping[str, str | None], context: int | None) -> Batches:
    """context: tokens of a sequence, where the user says so. Else a column of them, where the batch is smaller than
    they are: a batch in tokens holds a sequence at least."""
    name, length = names["batch"], names["context"]
    if name is None or name not in records[0]:  # a number that all runs have, in tokens
        return Batches(context or 1)
    words, small = stripped(name), False
    if context is None and length is not None:
        small = all(not number(r.get(name)) >= number(r.get(length, length)) for r in records)
    elif context is None and words == "bs":
        return Batches(STEP_LAW_CONTEXT)
    device, in_passes = words in PER_DEVICE, words in PER_PASS and (small or context is not None)
    used = (small or (device and context is None), device or in_passes, device)
    factors = tuple(key for key, wanted in zip(NEIGHBOURS, used, strict=True) if wanted and names[key])
    return Batches(context or 1, factors)
