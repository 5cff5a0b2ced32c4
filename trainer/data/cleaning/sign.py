"""The first pass over a file: why each row goes, and the signatures of those that stay."""
# pyarrow.compute's functions are made as it is imported, unseen by the checker.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.data.cleaning.contamination import Seen, shared
from trainer.data.cleaning.job import Job
from trainer.data.corpus import open_parquet, rows
from trainer.data.deduplication.signatures import signatures
from trainer.data.filters import Filter, reason
from trainer.errors import UserError
from trainer.files import disk_error

BATCH = 4 * 2**20  # characters of text in hand at a time
EXAMPLES = 3  # of removed documents, a filter and file
HEAD = 300  # characters of an example


def stem(job: Job, number: int) -> Path:
    """Where the pass over a file keeps what it found: .u32 (signatures), then .parquet (the file's rows)."""
    return job.work / f"{number:06d}"


def sign(job: Job, number: int) -> None:
    """Does nothing where it was done."""
    done = stem(job, number).with_suffix(".parquet")
    if done.exists():
        return
    filters, seen = job.build_filters(), Seen.of(job.against, job.against_words) if job.against else None
    reasons, words = [], []
    examples: dict[str, list[dict[str, Any]]] = {}
    at, temporary = 0, done.with_suffix(f".{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        try:
            for texts in _batches(job, number, bool(filters)):
                said = _reasons(texts, filters, seen)
                for place, why in enumerate(said):
                    if why and why not in ("empty", "damaged"):
                        told = examples.setdefault(why.partition(":")[0], [])
                        if len(told) < EXAMPLES:
                            told.append({"row": at + place, "reason": why, "text": texts[place].as_py()[:HEAD]})
                stays = np.array([why is None for why in said], bool)
                found, units = signatures(texts.filter(pa.array(stays)), job.settings)
                if job.duplicates:
                    file.write(np.ascontiguousarray(found[units > 0]).tobytes())
                counts = np.zeros(len(texts), np.int32)
                counts[stays] = units
                words.append(counts)
                reasons.append(pa.array(said, pa.string()).dictionary_encode())
                at += len(texts)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(error, done) from error
    os.replace(temporary, done.with_suffix(".u32"))
    columns: dict[str, Any] = {
        "reason": pa.chunked_array(reasons, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries(),
        "words": np.concatenate([np.zeros(0, np.int32), *words]),
    }
    table = pa.table(columns).replace_schema_metadata({"examples": json.dumps(examples)})
    pq.write_table(table, temporary, compression="zstd")
    os.replace(temporary, done)


def _batches(job: Job, number: int, as_python: bool) -> Iterator[pa.Array]:
    """All rows of a file, about BATCH characters at a time; null where one could not be read."""
    path = job.files[number]
    if path.name.endswith(".parquet") and not as_python:
        try:
            with open_parquet(path, job.reading.field) as file:
                for batch in file.iter_batches(batch_size=4096, columns=[job.reading.field]):
                    yield pc.fill_null(_text(batch.column(0), path, job.reading.field), "")
        except (UserError, OSError):  # read again, row by row, where damage is told or passed over
            if not job.reading.skip_damaged:
                raise
            yield pa.array([None], pa.string())
        return
    held, size = list[str | None](), 0
    for text in rows(path, job.reading):
        held.append(text)
        size += len(text or "")
        if size >= BATCH or len(held) >= 2**16:
            yield pa.array(held, pa.large_string())
            held, size = [], 0
    if held:
        yield pa.array(held, pa.large_string())


def _text(column: pa.Array, path: Path, field: str) -> pa.Array:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            raise UserError(f"{path} holds text that is not UTF-8 ({error}): write it again.") from None
        return column
    try:
        return pc.cast(column, pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(f"{path}: the column {field!r} holds {column.type}, not text.") from None


def _reasons(texts: pa.Array, filters: dict[str, Filter], seen: Seen | None) -> list[str | None]:
    """Why each goes, None where it stays."""
    empty = pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0)
    said: list[str | None] = pc.if_else(pc.is_null(texts), "damaged", pc.if_else(empty, "empty", None)).to_pylist()
    if filters:
        for place, text in enumerate(texts.to_pylist()):
            if said[place] is None:
                said[place] = reason(text, filters) or None
    if seen is not None:
        for place, where in shared(texts, seen).items():
            said[place] = said[place] or f"contamination: holds {where}"
    return said


def counts(job: Job, number: int) -> Counter[str]:
    """Rows by what became of them: the reason up to its colon, or "signed"."""
    column = pq.read_table(stem(job, number).with_suffix(".parquet"), columns=["reason"]).column(0)
    found = Counter[str]()
    for entry in pc.value_counts(column).to_pylist():
        found["signed" if entry["values"] is None else entry["values"].partition(":")[0]] += entry["counts"]
    return found
