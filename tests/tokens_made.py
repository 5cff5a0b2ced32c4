"""Token shards small enough to make in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.data import Prepared
from trainer.data.shards import write_shard


def make_data(folder: Path, ids: int = 63) -> Prepared:
    """Tokens with something to learn: each is usually the one before plus one. 63 is the end of a text."""
    rng = np.random.default_rng(0)
    tokens = np.cumsum(rng.choice([1, 1, 1, 5], size=20_000)) % ids
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "train.bin", [tokens[:15_000]], 64)
    write_shard(folder / "val.bin", [tokens[15_000:]], 64)
    return Prepared(
        train=(folder / "train.bin",), val=(folder / "val.bin",), train_tokens=15_000, val_tokens=5_000,
        vocabulary=64, tokenizer="none", end_of_text=63, bytes_per_token=2.0,
    )  # fmt: skip
