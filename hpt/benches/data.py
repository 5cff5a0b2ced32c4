"""From text to tokens on disk, and from there to batches."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tiktoken

from hpt.benches.common import Options, Row, seconds
from trainer.config import DataConfig
from trainer.data import Batches, Prepared, prepare
from trainer.data.corpus import documents
from trainer.data.shards import read_shard
from trainer.data.tokenizer import load_tokenizer

CONTEXT = 1024


def measure(options: Options) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="hpt-bench-") as folder, cache(folder):
        config = DataConfig()
        if options.quick:
            text = Path(folder) / "text.jsonl"
            lines = (" ".join(f"{k} and {n} are {k + n}." for k in range(50)) for n in range(400))
            text.write_text("\n".join(json.dumps({"text": line}) for line in lines))
            config = DataConfig(corpus=str(text), tokenizer="bpe:300", val_tokens=4096)
        began = time.perf_counter()
        prepared = prepare(config)
        taken = time.perf_counter() - began
        texts = list(documents(config))
        size = sum(len(text.encode()) for text in texts)
        row: Row = {
            "what": "prepare (read, train BPE, tokenise, write)",
            "seconds": taken,
            "mb_per_second": size / taken / 1e6,
        }
        return [row, *_encoding(texts, size, load_tokenizer(prepared.tokenizer), options), *_reading(prepared, options)]


@contextmanager
def cache(folder: str) -> Iterator[None]:
    """The user's cache elsewhere for the block, so that nothing is found there."""
    before = os.environ.get("HPT_CACHE_DIR")
    os.environ["HPT_CACHE_DIR"] = folder
    try:
        yield
    finally:
        del os.environ["HPT_CACHE_DIR"]
        if before is not None:
            os.environ["HPT_CACHE_DIR"] = before


def _encoding(texts: list[str], size: int, encoding: tiktoken.Encoding, options: Options) -> list[Row]:
    taken = seconds({"encode": lambda: encoding.encode_ordinary_batch(texts)}, 1, options.device)["encode"]
    return [{"what": "tokenise alone (tiktoken)", "seconds": taken, "mb_per_second": size / taken / 1e6}]


def _reading(prepared: Prepared, options: Options) -> list[Row]:
    """Shuffled windows as training reads them against the same number of tokens in order."""
    count = 16 if options.quick else 512
    batches, shard = Batches(prepared.train, CONTEXT if not options.quick else 64, 0), read_shard(prepared.train[0])
    span = min(count * batches.context, len(shard))
    ways = {
        "read shuffled windows": lambda: batches.sequences(0, count),
        "read in order": lambda: np.asarray(shard[:span], dtype=np.int64),
    }
    taken = seconds(ways, options.repeats, options.device)
    tokens = {"read shuffled windows": count * batches.context, "read in order": span}
    return [{"what": name, "seconds": time, "tokens_per_second": tokens[name] / time} for name, time in taken.items()]
