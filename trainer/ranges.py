"""Which numbers are possible: one table, by the name of the field that holds them. What is odd but harmless is let
through; what would fail later, or quietly mean nothing, is told at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.errors import UserError


@dataclass(frozen=True)
class Range:
    """low <= value <= high, and finite; `above`: low itself is not allowed; `whole`: no fractions."""

    low: float
    high: float
    above: bool = False
    whole: bool = False

    def holds(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.whole and not isinstance(value, int):
            return False
        return self.low < value <= self.high if self.above else self.low <= value <= self.high

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.above and self.low == 0:
            return f"{kind} above 0, at most {_written(self.high)}"
        return f"{kind} from {_written(self.low)} to {_written(self.high)}"


LARGE = 10**15  # tokens, FLOPs apart: above all that there is
COUNT = Range(1, 10**9, whole=True)
TOKENS = Range(1, LARGE, whole=True)
SHARE = Range(0, 1)
POSITIVE = Range(0, 1e12, above=True)
SEED = Range(0, 2**32 - 1, whole=True)
"""What NumPy's and Optuna's generators take."""

RUN: Mapping[str, Range] = {
    # the model
    "depth": Range(1, 10_000, whole=True),
    "width": Range(1, 2**20, whole=True),
    "heads": Range(1, 2**16, whole=True),
    "kv_heads": Range(1, 2**16, whole=True),
    "ffn": Range(1, 2**24, whole=True),
    "context": Range(1, 2**24, whole=True),
    "vocabulary": Range(1, 2**31 - 1, whole=True),  # 1: the shapes of a table, whose FLOPs leave the head out
    "norm_eps": Range(0, 1, above=True),
    "rope_base": Range(1, 1e12, above=True),
    "qk_dim": Range(1, 2**16, whole=True),
    "v_dim": Range(1, 2**16, whole=True),
    "windows": Range(0, 2**24, whole=True),
    "ffn_layers": Range(1, 64, whole=True),
    "logit_cap": Range(0, 1e6),
    # the data
    "val_tokens": TOKENS,
    "epochs": Range(0, 1e6, above=True),
    # the run
    "tokens": TOKENS,
    "batch": TOKENS,
    "lr": Range(0, 1e12, above=True),
    "warmup": Range(0, LARGE, whole=True),
    "cooldown": SHARE,
    "final_fraction": SHARE,
    "weight_decay": Range(0, 1000),
    "betas": Range(0, 1 - 1e-9),
    "eps": Range(0, 1, above=True),
    "clip": Range(0, 1e9),
    "base_width": Range(1, 2**20, whole=True),
    "base_depth": Range(1, 10_000, whole=True),
    "micro_batch": COUNT,
    "loss_cap": POSITIVE,
    "seed": SEED,
    "mask_rate": Range(0, 1, above=True),
    "mask_shares": SHARE,
}
"""Of a run: trainer.config."""


def check_ranges(config: Any, table: Mapping[str, Range], prefix: str = "", flags: bool = False) -> None:
    """UserError for a field of the dataclass `config` outside its range; each of a tuple, None where there may be none.

    prefix: of the field's name in the sentence; flags: name it as a flag.
    """
    for field in dataclasses.fields(config):
        if (allowed := table.get(field.name)) is None or (value := getattr(config, field.name)) is None:
            continue
        values = value if isinstance(value, tuple) else (value,)
        if all(map(allowed.holds, values)):
            continue
        if flags and isinstance(value, str):  # a column's name, say: what a flag's type is was checked before
            continue
        shown = ",".join(map(str, values))[:60]
        if flags:
            raise UserError(f"--{prefix}{field.name.replace('_', '-')} {shown} must be {allowed}.")
        raise UserError(f"{prefix}{field.name}={shown} must be {allowed}.")


def _written(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) and number <= LARGE else f"{number:.10g}"
