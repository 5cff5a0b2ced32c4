"""Random tokens: what they say does not change what a step costs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from trainer.data.prepare import Prepared
from trainer.data.shards import write_shard


@contextmanager
def random_data(vocabulary: int, tokens: int) -> Iterator[Prepared]:
    """`tokens` uniform tokens, the same to train and to validate on; the files are gone after the block."""
    with tempfile.TemporaryDirectory(prefix="hpt-random-") as folder:
        shard = Path(folder) / "random.bin"
        write_shard(shard, [np.random.default_rng(0).integers(0, vocabulary, tokens)], vocabulary)
        yield Prepared(
            train=(shard,),
            val=(shard,),
            train_tokens=tokens,
            val_tokens=tokens,
            vocabulary=vocabulary,
            tokenizer="none",
            end_of_text=0,
            bytes_per_token=1.0,
        )
