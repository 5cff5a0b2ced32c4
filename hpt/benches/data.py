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

from hpt.benches import dedup
from hpt.benches.common import Options, Row, seconds
from trainer.config import DataConfig
from trainer.data import Batches, Prepared, prepare
from trainer.data.corpus import Reading, documents
from trainer.data.shards import read_shard
from trainer.data.tokenise import Making, make
from trainer.data.tokenizer import load_tokenizer, to_json
from trainer.data.units import units
from trainer.storage import Store

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
        encoding = load_tokenizer(prepared.tokenizer)
        return [row, *_encoding(texts, size, encoding), *_reading(prepared, options), *dedup.measure(options)]


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


def _encoding(texts: list[str], size: int, encoding: tiktoken.Encoding) -> list[Row]:
    """From a file to a shard, and tiktoken alone on the same texts in memory; processor time of a core."""
    with tempfile.TemporaryDirectory(prefix="hpt-bench-") as name:
        folder = Path(name)
        (folder / "t.json").write_text(to_json(encoding))
        (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

        def shards(turn: int) -> None:
            place = folder / str(turn)
            make(
                Making(
                    units=tuple(units([folder / "a.jsonl"])), reading=Reading(), tokenizer=str(folder / "t.json"),
                    held_out=0.05, place=Store(str(place)), staging=place,
                ), 0,
            )  # fmt: skip

        taken: dict[str, list[float]] = {"tokenise, file to shard, a core": [], "tiktoken alone, a core": []}
        for turn in range(3):
            for what, way in zip(
                taken, (shards, lambda _: encoding.encode_ordinary_batch(texts, num_threads=1)), strict=True
            ):
                began = time.process_time()
                way(turn)
                taken[what].append(time.process_time() - began)
    return [{"what": n, "seconds": min(t), "mb_per_second": size / min(t) / 1e6} for n, t in taken.items()]


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
