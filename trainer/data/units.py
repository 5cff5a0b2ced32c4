"""A corpus in units of work: small files together, large parquet files by row groups, all else file by file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.corpus import Reading, open_parquet, rows

SIZE = 64 * 2**20
"""Bytes of text from which a unit is enough for a process, and a block for a shard."""
PACKED = {".gz": 2.8, ".xz": 3.7, ".zst": 3.2}
"""Bytes of text for a byte of file, roughly, for English."""
Document = str | np.ndarray
T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    path: Path
    groups: tuple[int, int] | None = None
    """Row groups of a parquet file, first and behind the last; None: the whole file."""
    weight: float = 0.0
    """Bytes of text, roughly."""


Unit = tuple[Piece, ...]


def units(files: Sequence[Path], field: str = "text", size: int = SIZE) -> list[Unit]:
    """In the order of the files; a function of their names, sizes and row groups alone."""
    made, held, weight = list[Unit](), list[Piece](), 0.0
    for path in files:
        for piece in _pieces(path, field, size):
            held.append(piece)
            weight += piece.weight
            if weight >= size:
                made.append(tuple(held))
                held, weight = [], 0.0
    if held:
        made.append(tuple(held))
    return made


def _pieces(path: Path, field: str, size: int) -> Iterator[Piece]:
    """A file, or runs of its row groups."""
    if not path.name.endswith(".parquet"):
        yield Piece(path, None, path.stat().st_size * PACKED.get(path.suffix, 1.0))
        return
    try:
        metadata = pq.read_metadata(path)
        paths = [metadata.schema.column(i).path.split(".")[0] for i in range(metadata.num_columns)]
        column = paths.index(field) if field in paths else 0
        groups = [metadata.row_group(i).column(column).total_uncompressed_size for i in range(metadata.num_row_groups)]
    except (OSError, pa.ArrowInvalid):  # reading it will say
        yield Piece(path, None, path.stat().st_size)
        return
    if sum(groups) < 2 * size:
        yield Piece(path, None, sum(groups))
        return
    first, weight, left = 0, 0, sum(groups)
    for i, bytes_ in enumerate(groups):
        weight, left = weight + bytes_, left - bytes_
        if weight >= size and left >= size:
            yield Piece(path, (first, i + 1), weight)
            first, weight = i + 1, 0
    yield Piece(path, (first, len(groups)), weight)


def found_in(parted: Sequence[Unit], how: Reading) -> Iterator[Document]:
    """All documents that can be read."""
    return (document for unit in parted for document in documents_of(unit, how) if document is not None)


def documents_of(unit: Unit, how: Reading) -> Iterator[Document | None]:
    """Texts, or arrays of token ids where the column holds lists of them; None where a row could not be read. Empty
    ones are passed over."""
    for piece in unit:
        if piece.path.name.endswith(".parquet") and (piece.groups or _holds_tokens(piece.path, how.field)):
            found = _groups(piece, how)
        else:
            found = rows(piece.path, how)
        for document in found:
            if document is None or (document.strip() if isinstance(document, str) else len(document)):
                yield document


def _holds_tokens(path: Path, field: str) -> bool:
    try:
        schema = pq.read_schema(path)
        return field in schema.names and pa.types.is_nested(schema.field(field).type)
    except (OSError, pa.ArrowInvalid):
        return False


def _groups(piece: Piece, how: Reading) -> Iterator[Document | None]:
    with open_parquet(piece.path, how.field) as file:
        groups = range(*(piece.groups or (0, file.num_row_groups)))
        for batch in file.iter_batches(batch_size=4096, row_groups=list(groups), columns=[how.field]):
            column = batch.column(0)
            if not pa.types.is_nested(column.type):
                yield from ("" if text is None else str(text) for text in column.to_pylist())
                continue
            values, offsets = column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()
            yield from (values[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True))


def blocks(documents: Iterator[T], size: int = SIZE) -> Iterator[list[T]]:
    """Lists of documents of `size` bytes (characters; 4 for a token) and more, the last of fewer than twice as many."""
    held, weight, sizes = list[T](), 0, list[int]()
    for document in documents:
        held.append(document)
        sizes.append(len(document) * (1 if isinstance(document, str) else 4))  # type: ignore[arg-type]
        weight += sizes[-1]
        while weight >= 2 * size and len(held) > 1:
            count, total = 0, 0
            while total < size:
                total += sizes[count]
                count += 1
            if count == len(held):
                break
            yield held[:count]
            held, sizes, weight = held[count:], sizes[count:], weight - total
    if held:
        yield held
