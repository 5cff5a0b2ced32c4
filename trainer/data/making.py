"""Decisions that need the whole corpus: its tokenizer, what is held out; then its shards, unit by unit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import tiktoken

from trainer.config import DataConfig
from trainer.data.corpus import Reading
from trainer.data.processes import cores, over
from trainer.data.shards import read_shard
from trainer.data.tokenise import Making, make, rank
from trainer.data.tokenizer import END_OF_TEXT, bpe_size, load_tokenizer, train_tokenizer
from trainer.data.units import SIZE, Document, Piece, Unit, blocks, found_in, units
from trainer.errors import UserError
from trainer.storage import Store

HELD_OUT = 0.05  # of the documents, or more where val_tokens need it
MOST_HELD_OUT = 0.3  # where documents are so few that a whole one would be more, the end of one is held out
TRAIN_BYTES = 64 * 2**20  # of text that a tokenizer is trained on
Progress = Callable[[str, int, int], None]


def build(
    data: DataConfig,
    files: Sequence[Path],
    reading: Reading,
    place: Store,
    staging: Path,
    *,
    name: str = "corpus",
    processes: int = 1,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda *_: None,
    size: int = SIZE,
) -> dict[str, object]:
    """Shards of `files` and prepared.json in `place`; returns what the latter says. Given again after it was cut off,
    it goes on, to the same bytes."""
    val = _named_validation(data, files)
    files = [path for path in files if not val or path.absolute() != val[0].path.absolute()]
    parted = tuple(units(files, reading.field, size))
    if not parted:
        raise UserError(f"Corpus {data.corpus!r} holds nothing but its validation file.")
    found = blocks(found_in(parted, reading), size)
    head = next(found, [])
    if not head:
        raise UserError(f"Corpus {data.corpus!r} holds no text.")
    whole = len(parted) == 1 and next(found, None) is None
    spec, saved = data.tokenizer, data.tokenizer
    if (bpe := bpe_size(spec)) is not None:
        sample = _sample(head) if whole else _spread(parted, reading)
        path, saved = staging / "tokenizer.json", "tokenizer.json"
        told = f"{len(sample):,} documents" + (
            "" if whole else f", {TRAIN_BYTES >> 20} MB from the beginnings of all files"
        )
        if (kept := place.read(saved)) is None:
            say(f"training a byte-level BPE of {bpe:,} on {told}")
            staging.mkdir(parents=True, exist_ok=True)
            train_tokenizer(sample, bpe, path)
            place.write(saved, path.read_bytes())
        elif place.local is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(kept)
        spec = str(path)
    encoding = load_tokenizer(spec)
    staging.mkdir(parents=True, exist_ok=True)
    making = Making(
        units=parted, reading=reading, tokenizer=spec, held_out=0.0, val=val, val_documents=data.val_documents,
        place=place, staging=staging, name=name, size=size,
    )  # fmt: skip
    if not val:
        making = _hold_out(making, head, whole, data, encoding)
    what = f"{len(parted):,} parts" if len(parted) > 1 else f"{len(head):,} documents"
    del head  # up to two blocks of text
    numbers = [*([-1] if val else []), *range(len(parted))]
    processes = max(1, min(processes, len(numbers)))
    making = replace(making, threads=max(1, cores() // processes))
    say(f"tokenising {what}")
    entries = dict[int, list[dict[str, object]]]()
    progress("tokenising", 0, len(numbers))
    for number, made in over(numbers, partial(make, making), processes):
        entries[number] = made
        progress("tokenising", len(entries), len(numbers))
    return _finish(making, saved, data, encoding, [entry for number in numbers for entry in entries[number]])


def _finish(making: Making, saved: str, data: DataConfig, encoding: tiktoken.Encoding, entries: list) -> dict:  # type: ignore[type-arg]
    shards = [{k: e[k] for k in ("name", "part", "tokens", "bytes", "checksum")} for e in entries if "name" in e]
    tokens = {part: sum(s["tokens"] for s in shards if s["part"] == part) for part in ("train", "val")}
    if making.val and not tokens["val"]:
        raise UserError(f"The validation file {data.val} holds no text.")
    if not tokens["train"]:
        raise UserError(f"Corpus {data.corpus!r} is too small: all its documents would be held out.")
    values = {
        "tokenizer": saved,
        "spec": data.tokenizer,
        "train_tokens": tokens["train"],
        "val_tokens": tokens["val"],
        "vocabulary": encoding.n_vocab,
        "end_of_text": encoding.encode_single_token(END_OF_TEXT),
        "bytes_per_token": _first_bytes(making, shards, data.val_tokens, encoding),
        "shards": shards,
    }
    making.place.write("prepared.json", json.dumps(values, indent=1).encode())
    return {**values, "documents": sum(e.get("documents", 0) for e in entries),
            "damaged": sum(e.get("damaged", 0) for e in entries)}  # fmt: skip


def _first_bytes(making: Making, shards: list[dict[str, object]], count: int, encoding: tiktoken.Encoding) -> float:
    """From the first held-out shards, as many as `count` tokens need."""
    paths, total = [], 0
    for shard in shards:
        if shard["part"] == "val" and total < count:
            path = making.staging / str(shard["name"])
            if making.place.local is None and not path.exists():
                making.place.fetch(str(shard["name"]), path)
            paths.append(path if making.place.local is None else making.place.local / str(shard["name"]))
            total += int(str(shard["tokens"]))
    return bytes_per_token(paths, count, encoding) if paths else math.nan


def bytes_per_token(shards: Sequence[Path], count: int, encoding: tiktoken.Encoding) -> float:
    """Bytes of text over tokens, of the first `count` tokens; end-of-text is a token of no bytes."""
    tokens = np.concatenate([read_shard(p, encoding.n_vocab)[:count] for p in shards])[:count]
    text = tokens[tokens != encoding.encode_single_token(END_OF_TEXT)]
    return len(b"".join(encoding.decode_tokens_bytes(text.tolist()))) / max(1, len(tokens))


def _named_validation(data: DataConfig, files: Sequence[Path]) -> Unit:
    """The file in data.val; a name without a folder may be one of the corpus."""
    if not data.val:
        if data.val_documents:
            raise UserError("--val-documents counts documents of a validation file: name it with --val FILE.")
        return ()
    path = Path(data.val).expanduser()
    if not path.is_file():
        path = next((p for p in files if p.name == data.val or str(p).endswith(f"/{data.val}")), path)
    if not path.is_file():
        raise UserError(f"There is no validation file {data.val}: give a file, or the name of one in the corpus.")
    return (Piece(path),)


def _sample(texts: Sequence[Document]) -> list[str]:
    """Documents spread over the corpus, at most TRAIN_BYTES of them."""
    every = max(1, -(-sum(map(len, texts)) // TRAIN_BYTES))
    return [_text(text) for text in texts[::every]]


def _spread(parted: Sequence[Unit], reading: Reading) -> list[str]:
    """The beginnings of all units, TRAIN_BYTES in all."""
    found, share = [], TRAIN_BYTES // len(parted)
    for unit in parted:
        size = 0
        for document in found_in([unit], reading):
            found.append(_text(document)[: share - size])
            size += len(document)
            if size >= share:
                break
    return found


def _text(document: Document) -> str:
    if isinstance(document, str):
        return document
    raise UserError("No tokenizer can be trained on lists of tokens: name the one they were made with by --tokenizer.")


def _hold_out(
    making: Making, head: list[Document], whole: bool, data: DataConfig, encoding: tiktoken.Encoding
) -> Making:
    """What is held out: a fraction of the documents by their hash; of a document or few the end of the longest."""
    size = sum(piece.weight for unit in making.units for piece in unit)
    wanted = data.val_tokens * (1 if whole else sum(map(len, head)) / max(size, 1))
    rate = _tokens_per_character(head, encoding)
    fraction = _fraction(head, wanted, rate)
    which = max(range(len(head)), key=lambda i: (len(head[i]), -i))
    held = sum(len(document) for document in head if rank(document) < fraction) / sum(map(len, head))
    enough = len(head[which]) / 2 > 1.1 * wanted / rate  # of the longest document, from its end
    if not whole or len(head) > 1 and 0 < held < (MOST_HELD_OUT if enough else 1):
        return replace(making, held_out=fraction)
    return replace(making, cut=(which, _end(head[which], 1.1 * wanted / rate)))


def _end(document: Document, wanted: float) -> int:
    """Where the held-out end begins: HELD_OUT of it or what is wanted, at most half, from a line's beginning on."""
    at = len(document) - round(min(len(document) / 2, max(HELD_OUT * len(document), wanted)))
    if isinstance(document, str):
        line = document.rfind("\n", 0, at) + 1
        at = line if line > 0.9 * at else at
    return max(1, at)


def _tokens_per_character(documents: Sequence[Document], encoding: tiktoken.Encoding) -> float:
    if not isinstance(documents[0], str):
        return 1.0
    head = "".join(map(str, documents))[:200_000]
    return len(encoding.encode_ordinary(head)) / len(head)


def _fraction(documents: Sequence[Document], wanted: float, rate: float) -> float:
    """HELD_OUT, or the least fraction of the documents that gives `wanted` tokens; never more than half."""
    total = 0.0
    for at, size in sorted((rank(d), len(d)) for d in documents):
        total += size * rate
        if total > 1.1 * wanted:
            return min(0.5, max(HELD_OUT, math.nextafter(at, 1)))
    return 0.5
