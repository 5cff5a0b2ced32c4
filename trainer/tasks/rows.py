"""Rows of a task's files: .jsonl and .json (packed or not), .csv and .tsv, .parquet, .arrow."""

from __future__ import annotations

import csv
import io
import json
import lzma
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import zstandard

from trainer.data.corpus import open_bytes
from trainer.errors import UserError

PACKED = (".gz", ".xz", ".zst")
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
SPLITS = {"train": ("train",), "validation": ("validation", "val", "dev", "test")}
"""Words that a file's name or a row's field `split` begins with; the first that is there is taken."""
Placed = tuple[str, dict[str, Any]]
"""Where a row stands, for messages, and the row."""


def kind_of(path: Path) -> str:
    """The ending that says how a file is read, "" for none that hpt knows."""
    name = path.name
    for packed in PACKED:
        name = name.removesuffix(packed)
    return next((kind for kind in KINDS if name.endswith(kind)), "")


def rows(path: Path) -> Iterator[Placed]:
    """Of one file, in order. UserError for a file that cannot be read or is none of these."""
    kind = kind_of(path)
    if not kind:
        raise UserError(f"{path} is of no kind that tasks are read from: {', '.join(KINDS)}, also .gz, .xz or .zst.")
    try:
        yield from {
            ".jsonl": _lines, ".json": _json, ".csv": _table, ".tsv": _table, ".parquet": _parquet, ".arrow": _arrow,
        }[kind](path)  # fmt: skip
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError, zstandard.ZstdError, csv.Error,
            pyarrow.ArrowException) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} cannot be read ({reason}): fetch or write it again.") from None


def _lines(path: Path) -> Iterator[Placed]:
    with open_bytes(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}, line {number}", _object(line, f"{path}, line {number}")


def _json(path: Path) -> Iterator[Placed]:
    """One document: SQuAD's own layout, or a list of rows; where it is neither, an object a line."""
    with open_bytes(path) as file:
        content = file.read()
    try:
        whole = json.loads(content)
    except ValueError:
        yield from _lines(path)
        return
    found = squad_rows(whole["data"]) if isinstance(whole, dict) and "data" in whole else whole
    found = found if isinstance(found, list) else [found]
    for number, row in enumerate(found, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number} is not an object.")
        yield f"{path}, row {number}", row


def squad_rows(articles: Any) -> list[dict[str, Any]]:
    """SQuAD's nested layout as flat rows; anything else as it is."""
    if not (isinstance(articles, list) and articles and isinstance(articles[0], dict) and "paragraphs" in articles[0]):
        return articles
    return [
        {"title": article.get("title", ""), "context": paragraph["context"], **question}
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def _table(path: Path) -> Iterator[Placed]:
    """.tsv as GLUE publishes it: without quotes."""
    csv.field_size_limit(sys.maxsize)
    with io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline="") as text:  # type: ignore[arg-type]
        tabs = kind_of(path) == ".tsv"
        reader = csv.DictReader(text, delimiter="\t" if tabs else ",", quoting=csv.QUOTE_NONE if tabs else 0)
        for number, row in enumerate(reader, start=1):
            yield f"{path}, row {number}", row


def _parquet(path: Path) -> Iterator[Placed]:
    with pyarrow.parquet.ParquetFile(path) as file:
        yield from _batches(path, file.iter_batches(batch_size=1024))


def _arrow(path: Path) -> Iterator[Placed]:
    """A file or a stream of record batches, as datasets writes them."""
    with open_bytes(path) as file:
        content = pyarrow.py_buffer(file.read())
    try:
        reader = pyarrow.ipc.open_file(content)
        yield from _batches(path, (reader.get_batch(i) for i in range(reader.num_record_batches)))
    except pyarrow.ArrowInvalid:
        yield from _batches(path, pyarrow.ipc.open_stream(content))


def _batches(path: Path, batches: Any) -> Iterator[Placed]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", row


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object: the file is damaged or of another kind.")
    return row
