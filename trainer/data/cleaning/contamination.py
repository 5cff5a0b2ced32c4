"""Documents that hold rows of an evaluation: a run of words of one is found in the other (as GPT-3's 13-grams, Brown et
al. 2020, arXiv 2005.14165, appendix C)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.data.corpus import JSON_LINES, open_bytes
from trainer.data.deduplication import Settings
from trainer.data.deduplication.shingles import shingles
from trainer.errors import UserError


@dataclass(frozen=True)
class Seen:
    """All runs of words of the evaluation files."""

    hashes: np.ndarray
    """uint64, sorted."""
    rows: np.ndarray
    """int64: where the first of each comes from, into `names`."""
    names: tuple[str, ...]
    words: int

    @classmethod
    @cache
    def of(cls, files: tuple[Path, ...], words: int) -> Seen:
        """Rows of .jsonl, .json, .tsv, .csv or lines of .txt; of each, every text of at least so many words."""
        texts, owners, names = [], [], []
        for file in files:
            for number, parts in enumerate(_entries(file)):
                names.append(f"{file.name}, row {number}")
                texts += parts
                owners += [len(names) - 1] * len(parts)
        found = shingles(pa.array(texts, pa.large_string()), Settings(shingle=words))
        long = found.units >= words
        if not long.any():
            raise UserError(
                f"No text of {', '.join(map(str, files))} has {words} words in a row: lower --against-words."
            )
        sizes = np.diff(found.offsets)
        take, owner = np.repeat(long, sizes), np.repeat(np.array(owners, np.int64), sizes)
        hashes, first = np.unique(found.hashes[take], return_index=True)
        return cls(hashes, owner[take][first], tuple(names), words)


def shared(texts: pa.Array, seen: Seen) -> dict[int, str]:
    """Documents (places in `texts`) that hold a run of the evaluation's words, and which row's."""
    found = shingles(texts, Settings(shingle=seen.words))
    at = np.minimum(np.searchsorted(seen.hashes, found.hashes), len(seen.hashes) - 1)
    hits = np.flatnonzero(seen.hashes[at] == found.hashes)
    documents = np.searchsorted(found.offsets, hits, side="right") - 1
    return {
        int(document): seen.names[seen.rows[at[hit]]]
        for document, hit in reversed(list(zip(documents, hits, strict=True)))
        if found.units[document] >= seen.words
    }


def _entries(file: Path) -> Iterator[list[str]]:
    name = file.name
    plain = name.removesuffix(file.suffix) if file.suffix in (".gz", ".xz", ".zst") else name
    try:
        with open_bytes(file) as lines:
            if name.endswith(JSON_LINES):
                for line in lines:
                    yield list(_strings(json.loads(line)))
            elif plain.endswith(".json"):
                whole = json.loads(lines.read())
                for entry in whole if isinstance(whole, list) else [whole]:
                    yield list(_strings(entry))
            elif plain.endswith((".tsv", ".csv")):
                text = (line.decode() for line in lines)
                yield from csv.reader(text, delimiter="\t" if plain.endswith(".tsv") else ",", quoting=csv.QUOTE_NONE)
            elif plain.endswith(".txt"):
                for line in lines:
                    yield [line.decode()]
            else:
                raise UserError(f"--against {file}: give .jsonl, .json, .tsv, .csv or .txt, packed or not.")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"--against {file} cannot be read ({error}).") from None


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
