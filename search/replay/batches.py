"""What a table's batch counts: tokens, sequences, or what one device takes in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from search.replay.columns import plain
from search.replay.files import number

STEP_LAW_CONTEXT = 2048  # tokens: their column `bs` counts sequences
PER_DEVICE = ("per_device_train_batch_size", "per_device_batch_size", "per_device_batch", "device_batch_size",
              "micro_batch_size", "microbatch_size", "batch_size_per_gpu")  # fmt: skip
PER_PASS = ("batch_size", "train_batch_size")
"""Beside a column of accumulated passes, what one of these is (nanoGPT's counts those of all devices together)."""


@dataclass(frozen=True)
class Batches:
    """Tokens a step of a row's values, and what was multiplied."""

    tokens: Callable[[Mapping[str, Any]], float]
    note: str = ""


def batches(records: list[dict[str, Any]], names: Mapping[str, str | None], context: int | None) -> Batches:
    """context: tokens of a sequence, where the user says so. Else a column of them, where the batch is smaller than
    they are: a batch in tokens holds a sequence at least."""
    name = names["batch"]
    if name is None or name not in records[0]:  # a number that all runs have, in tokens
        return _times(name, [], context or 1)
    length = names["context"]
    factors = [] if context or length is None else ["context"]
    small = length is not None and all(not number(r.get(name)) >= number(r.get(length, length)) for r in records)
    words = plain(str(name).rpartition(".")[2])
    passes = words in PER_DEVICE or (words in PER_PASS and names["accumulation"] is not None and (small or context))
    if words == "bs" and not factors:
        return _times(name, [], context or STEP_LAW_CONTEXT)
    if not passes:
        return _times(name, factors if small else [], context or 1, names)
    more = ["accumulation", *(["workers"] if words in PER_DEVICE else [])]
    return _times(name, [*(key for key in more if names[key]), *factors], context or 1, names)


def _times(
    name: str | None, factors: list[str], unit: int, names: Mapping[str, str | None] | None = None
) -> Batches:  # fmt: skip
    def tokens(values: Mapping[str, Any]) -> float:
        return number(values["batch"]) * unit * math.prod(number(values[key]) for key in factors)

    if factors:
        by = " x ".join(str((names or {})[key]) for key in factors)
        return Batches(tokens, f"A step's tokens are {name} x {by}{f' x {unit}' if unit > 1 else ''}.")
    return Batches(tokens, f"{name} counts sequences of {unit} tokens." if unit > 1 else "")
