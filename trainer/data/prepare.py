"""A corpus as token shards, in the user's cache, made once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiktoken
from filelock import FileLock

from trainer.config import DataConfig
from trainer.data.corpus import corpus_files, documents, held_out_rank
from trainer.data.fetch import CORPORA
from trainer.data.folders import cache_dir as cache_dir
from trainer.data.shards import damage, read_shard, seal, write_shard
from trainer.data.tokenizer import END_OF_TEXT, bpe_size, load_tokenizer, train_tokenizer
from trainer.errors import UserError
from trainer.files import disk_error, write_atomic

FORMAT = 2  # of the cache; a change of anything below that alters shards raises it
HELD_OUT = 0.05  # of the documents, or more where val_tokens need it
TRAIN_BYTES = 64 * 2**20  # of text that a tokenizer is trained on
BATCH_BYTES = 16 * 2**20  # of text tokenised at a time


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Token shards ready to train on."""

    train: tuple[Path, ...]
    val: tuple[Path, ...]
    train_tokens: int
    val_tokens: int
    vocabulary: int
    """Ids of the tokenizer; the model may have more rows."""
    tokenizer: str
    """For `load_tokenizer`."""
    end_of_text: int
    """Stands before each document."""
    bytes_per_token: float
    """Of the held-out tokens that evaluations read: nats a token / ln 2 / this = bits a byte."""


def prepare(
    data: DataConfig,
    *,
    vocabulary: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Tokenise `data`, or find it in the cache. Deterministic; several processes may call it at once.

    vocabulary: the model's, which must hold the tokenizer's.
    """
    size = bpe_size(data.tokenizer)
    if size is None:
        load_tokenizer(data.tokenizer)  # tells at once when it cannot be had
    files = corpus_files(data)
    if all(p.suffix == ".bin" for p in files):
        prepared = _ready_made(data, files)
    else:
        folder = cache_dir() / "data" / _key(data, files)
        prepared = _found(folder, say) or _made(data, size, folder, say)
    if vocabulary is not None and prepared.vocabulary > vocabulary:
        raise UserError(
            f"Tokenizer {data.tokenizer} has {prepared.vocabulary:,} ids and the model's vocabulary only "
            f"{vocabulary:,}: use --set model.vocabulary={prepared.vocabulary} or a smaller tokenizer."
        )
    if prepared.val_tokens < data.val_tokens:
        raise UserError(
            f"Corpus {data.corpus!r} has {prepared.val_tokens:,} held-out tokens, and evaluations read "
            f"{data.val_tokens:,}: use --set data.val_tokens={prepared.val_tokens} or a larger corpus."
        )
    return prepared


def check_enough(prepared: Prepared, data: DataConfig, tokens: int) -> None:
    """UserError when a run of `tokens` would repeat the corpus more often than `data.epochs` allows."""
    if tokens > prepared.train_tokens * data.epochs:
        get = f"fetch more with python -m hpt.data get {data.corpus} --tokens {math.ceil(tokens / data.epochs)}"
        more = get if data.corpus in CORPORA else "give a larger corpus"
        raise UserError(
            f"Corpus {data.corpus!r} has {prepared.train_tokens:,} training tokens and the run needs {tokens:,}: "
            f"lower --tokens, {more}, or allow repetition with "
            f"--set data.epochs={math.ceil(100 * tokens / prepared.train_tokens) / 100:.2f}."
        )


def _key(data: DataConfig, files: list[Path]) -> str:
    """Names the content without reading it: each file's path, size and time of change, and all that shapes shards."""
    stats = [(str(p.absolute()), (s := p.stat()).st_size, s.st_mtime_ns) for p in files]
    shaping = [
        FORMAT,
        data.tokenizer,
        data.text_field,
        data.val_tokens,
        HELD_OUT,
        tiktoken.__version__,
    ]
    return hashlib.blake2b(json.dumps([shaping, stats]).encode(), digest_size=12).hexdigest()


def _build(data: DataConfig, size: int | None, folder: Path, say: Callable[[str], None]) -> None:
    texts = list(documents(data))
    if not texts:
        raise UserError(f"Corpus {data.corpus!r} holds no text.")
    spec = data.tokenizer
    if size is not None:
        spec = str(folder / "tokenizer.json")
        say(f"training a byte-level BPE of {size:,} on {len(texts):,} documents")
        train_tokenizer(_sample(texts), size, Path(spec))
    encoding = load_tokenizer(spec)
    # Order by a seeded shuffle: neighbouring files are alike, and a prefix of the shard should look like the whole.
    random.Random(0).shuffle(texts)
    fraction = _held_out_fraction(texts, data.val_tokens, encoding)
    val = [t for t in texts if held_out_rank(t) < fraction]
    train = [t for t in texts if held_out_rank(t) >= fraction]
    if not train:
        raise UserError(f"Corpus {data.corpus!r} is too small: all its {len(texts)} documents would be held out.")
    counts = {}
    for name, part in (("val", val), ("train", train)):
        say(f"tokenising {len(part):,} documents for {name}")
        counts[name] = write_shard(folder / f"{name}.bin", _tokenised(part, encoding), encoding.n_vocab)
        seal(folder / f"{name}.bin")
    values = {
        "tokenizer": spec,
        "train_tokens": counts["train"],
        "val_tokens": counts["val"],
        "vocabulary": encoding.n_vocab,
        "end_of_text": encoding.encode_single_token(END_OF_TEXT),
        "bytes_per_token": _bytes_per_token([folder / "val.bin"], data.val_tokens, encoding),
    }
    write_atomic(folder / "prepared.json", json.dumps(values).encode())


def _read(folder: Path) -> Prepared:
    values = json.loads((folder / "prepared.json").read_text())
    return Prepared(train=(folder / "train.bin",), val=(folder / "val.bin",), **values)


def _found(folder: Path, say: Callable[[str], None]) -> Prepared | None:
    """What was prepared before, whole; None: it is not here, or damaged and to be made again. Nothing is written, so a
    cache that is read-only will do."""
    try:
        prepared = _read(folder)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        say(f"{folder / 'prepared.json'} is damaged ({error}): preparing the corpus again")
        return None
    for path in (*prepared.train, *prepared.val):
        if fault := damage(path, prepared.vocabulary):
            say(f"{fault}: preparing the corpus again")
            return None
    return prepared


def _made(data: DataConfig, size: int | None, folder: Path, say: Callable[[str], None]) -> Prepared:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if (prepared := _found(folder, say)) is None:  # another process may have made it meanwhile
                _build(data, size, folder, say)
                prepared = _read(folder)
    except OSError as error:
        raise disk_error(error, folder / "prepared.json") from error
    return prepared


def _sample(texts: list[str]) -> Iterator[str]:
    """Documents spread over the corpus, at most TRAIN_BYTES of them."""
    every = max(1, -(-sum(map(len, texts)) // TRAIN_BYTES))
    yield from texts[::every]


def _held_out_fraction(texts: list[str], wanted: int, encoding: tiktoken.Encoding) -> float:
    """HELD_OUT, or the least fraction of the documents that gives `wanted` tokens; never more than half."""
    head = "".join(texts)[:200_000]
    tokens_per_character = len(encoding.encode_ordinary(head)) / len(head)
    total = 0.0
    for rank, size in sorted((held_out_rank(t), len(t)) for t in texts):
        total += size * tokens_per_character
        if total > 1.1 * wanted:
            return min(0.5, max(HELD_OUT, math.nextafter(rank, 1)))
    return 0.5


def _tokenised(texts: list[str], encoding: tiktoken.Encoding) -> Iterator[np.ndarray]:
    """Ids of each document behind an end-of-text, as llm.c writes them."""
    end = encoding.encode_single_token(END_OF_TEXT)
    batch, size = [], 0
    for i, text in enumerate(texts):
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES or i + 1 == len(texts):
            for ids in encoding.encode_ordinary_batch(batch, num_threads=os.cpu_count() or 1):
                yield np.array([end, *ids], np.uint32)
            batch, size = [], 0


def _bytes_per_token(shards: list[Path], count: int, encoding: tiktoken.Encoding) -> float:
    """Bytes of text over tokens, of the first `count` tokens; end-of-text is a token of no bytes."""
    tokens = np.concatenate([read_shard(p, encoding.n_vocab)[:count] for p in shards])[:count]
    text = tokens[tokens != encoding.encode_single_token(END_OF_TEXT)]
    return len(b"".join(encoding.decode_tokens_bytes(text.tolist()))) / max(1, len(tokens))


def _ready_made(data: DataConfig, files: list[Path]) -> Prepared:
    """Shards that somebody else wrote, such as fineweb_train_000001.bin and fineweb_val_000000.bin."""
    train, val = ([p for p in files if f"_{part}_" in p.name] for part in ("train", "val"))
    if not train or not val:
        raise UserError(
            f"Corpus {data.corpus!r} has {len(train)} training and {len(val)} validation shards: "
            "it needs files named *_train_*.bin and *_val_*.bin."
        )
    if bpe_size(data.tokenizer) is not None:
        raise UserError(
            f"Token shards were made with a known tokenizer: name it with --tokenizer, not {data.tokenizer}."
        )
    encoding = load_tokenizer(data.tokenizer)
    for path in (*train, *val):
        if fault := damage(path, encoding.n_vocab):
            raise UserError(
                f"{fault}: fetch it again (python -m hpt.data get NAME --tokens N), or name its own --tokenizer."
            )
    return Prepared(
        train=tuple(train),
        val=tuple(val),
        train_tokens=sum(len(read_shard(p, encoding.n_vocab)) for p in train),
        val_tokens=sum(len(read_shard(p, encoding.n_vocab)) for p in val),
        vocabulary=encoding.n_vocab,
        tokenizer=data.tokenizer,
        end_of_text=encoding.encode_single_token(END_OF_TEXT),
        bytes_per_token=_bytes_per_token(val, data.val_tokens, encoding),
    )
