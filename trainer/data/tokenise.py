"""Units of a corpus to llm.c's shards: memory bounded, the same bytes whoever makes them, nothing made twice."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from trainer.data.corpus import Reading, held_out_rank
from trainer.data.mirrored import checksum
from trainer.data.shards import seal, write_shard
from trainer.data.tokenizer import END_OF_TEXT, load_tokenizer
from trainer.data.units import SIZE, Document, Unit, blocks, documents_of
from trainer.errors import UserError
from trainer.storage import Store

LONG = 2**22  # characters that are encoded at once
SPACE = re.compile(r"(?<=\S) (?=\w)")  # where GPT-2's and later patterns begin a new piece in any case


@dataclass(frozen=True, kw_only=True)
class Making:
    """All that shapes the shards of a corpus."""

    units: tuple[Unit, ...]
    reading: Reading
    tokenizer: str
    """For `load_tokenizer`."""
    held_out: float
    """Documents of a rank below it are held out."""
    cut: tuple[int, int] | None = None
    """A corpus of a document or few: which one ends in the held-out text, and where in it that begins."""
    val: Unit = ()
    """Held out instead, in order."""
    val_documents: int = 0
    """So many of them; 0: all."""
    place: Store
    staging: Path
    """Folder in which a shard is written before it is put in its place."""
    name: str = "corpus"
    size: int = SIZE
    threads: int = 1


def make(making: Making, number: int) -> list[dict[str, Any]]:
    """The shards of a unit, -1: of the named validation file. What is in its place already is not made again."""
    encoding = load_tokenizer(making.tokenizer)
    stem = f"{number:06d}" if number >= 0 else "named"
    made, counts = [], {"documents": 0, "damaged": 0}
    if (whole := making.place.read(f"_hpt/{stem}.json")) is not None and _there(making, json.loads(whole)):
        return json.loads(whole)
    for at, block in enumerate(blocks(_counted(_documents(making, number), counts), making.size)):
        mark = f"_hpt/{stem}_{at:03d}.json"
        if (done := making.place.read(mark)) is None or not _there(making, json.loads(done)):
            entries = [
                _shard(
                    making, f"{making.name}_{part}_{stem}{f'_{at:03d}' if at else ''}.bin", part, documents, encoding
                )
                for part, documents in _parts(making, number, at, block).items()
                if documents
            ]
            done = json.dumps(entries).encode()
            making.place.write(mark, done)
        made += json.loads(done)
    if made:
        made[0] |= counts
    else:
        made = [counts]
    making.place.write(f"_hpt/{stem}.json", json.dumps(made).encode())
    return made


def _there(making: Making, entries: list[dict[str, Any]]) -> bool:
    """Whether shards that were finished have not been lost since; in a store they are taken to be."""
    folder = making.place.local
    return folder is None or all((folder / entry["name"]).is_file() for entry in entries if "name" in entry)


def _documents(making: Making, number: int) -> Iterator[Document | None]:
    if number >= 0:
        return documents_of(making.units[number], making.reading)
    return _first(documents_of(making.val, making.reading), making.val_documents)


def _first(documents: Iterator[Document | None], count: int) -> Iterator[Document | None]:
    for at, document in enumerate(documents):
        if count and at >= count:
            return
        yield document


def _counted(documents: Iterator[Document | None], counts: dict[str, int]) -> Iterator[Document]:
    for document in documents:
        counts["damaged" if document is None else "documents"] += 1
        if document is not None:
            yield document


def _parts(making: Making, number: int, at: int, block: list[Document]) -> dict[str, list[Document]]:
    """Documents of a block that are held out and those to train on, shuffled: neighbours in a file are alike, and a
    prefix of a shard should look like the whole."""
    if number < 0:
        return {"val": block}
    if making.cut is not None:
        which, end = making.cut
        whole = block[which]
        return {"val": [whole[end:]], "train": [*block[:which], whole[:end], *block[which + 1 :]]}
    random.Random(number << 20 | at).shuffle(block)
    ranks = [rank(document) for document in block]
    return {
        "val": [d for d, r in zip(block, ranks, strict=True) if r < making.held_out],
        "train": [d for d, r in zip(block, ranks, strict=True) if r >= making.held_out],
    }


def rank(document: Document) -> float:
    if isinstance(document, str):
        return held_out_rank(document)
    return int.from_bytes(hashlib.blake2b(document.astype("<u4").tobytes(), digest_size=8).digest(), "big") / 2**64


def _shard(
    making: Making, name: str, part: str, documents: list[Document], encoding: tiktoken.Encoding
) -> dict[str, Any]:
    path = making.staging / name
    tokens = write_shard(path, tokens_of(documents, encoding, making.threads), encoding.n_vocab)
    entry = {"name": name, "part": part, "tokens": tokens, "bytes": path.stat().st_size, "checksum": checksum(path)}
    seal(path)
    for file in (f"{name}.sum", name):
        making.place.put(making.staging / file, file)
    return entry


def tokens_of(documents: Sequence[Document], encoding: tiktoken.Encoding, threads: int = 1) -> Iterator[np.ndarray]:
    """Ids of each document behind an end-of-text, as llm.c writes them."""
    end = np.array([encoding.encode_single_token(END_OF_TEXT)], np.uint32)

    def encoded(document: Document) -> np.ndarray:
        return encode(document, encoding) if isinstance(document, str) else _ids(document, encoding, int(end[0]))

    with ThreadPoolExecutor(threads) as pool:
        for ids in pool.map(encoded, documents) if threads > 1 else map(encoded, documents):
            yield end
            yield ids


def encode(text: str, encoding: tiktoken.Encoding) -> np.ndarray:
    """uint32 ids. A text of many megabytes is cut between words, where no token of it changes."""
    if len(text) <= LONG:
        return encoding.encode_to_numpy(text, disallowed_special=())
    pieces, at = [], 0
    while at < len(text):
        found = SPACE.search(text, at + LONG, at + 2 * LONG)
        last = found.start() if found else at + 2 * LONG
        pieces.append(encoding.encode_to_numpy(text[at:last], disallowed_special=()))
        at = last
    return np.concatenate(pieces)


def _ids(ids: np.ndarray, encoding: tiktoken.Encoding, end: int) -> np.ndarray:
    """Made elsewhere: an end-of-text around them is not doubled."""
    ids = ids[int(ids[0] == end) :] if len(ids) else ids
    ids = ids[: len(ids) - int(len(ids) > 0 and ids[-1] == end)]
    if len(ids) and not 0 <= ids.min() <= ids.max() < encoding.n_vocab:
        raise UserError(
            f"A list of tokens holds {ids.min() if ids.min() < 0 else ids.max()}, and the vocabulary of "
            f"{encoding.name} has {encoding.n_vocab:,}: name the tokenizer they were made with by --tokenizer."
        )
    return ids.astype(np.uint32)
