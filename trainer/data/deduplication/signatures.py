"""MinHash signatures: the share of values in which two documents agree estimates their sets' Jaccard similarity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

from trainer.data.deduplication.settings import Settings
from trainer.data.deduplication.shingles import mixed, shingles

BYTES = 2**19  # of text at a time: what numpy makes of it stays in the caches
ROWS = 4096
VERSION = RMinHash.ALGORITHM_VERSION
"""Signatures of another version cannot be compared."""


def signatures(texts: pa.Array | pa.ChunkedArray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """uint32 [n, values], and the words of each document, int64 [n]. A document without words has a row of zeros.

    With settings.exact: uint32 [n, 2], a hash of all words in order.
    """
    rows, units = [], []
    for part in _parts(texts):
        found = shingles(part, settings)
        units.append(found.units)
        if settings.exact:
            rows.append(_whole(found.hashes, found.offsets))
            continue
        made = RMinHash.digest_matrix_from_flat_token_hashes(
            found.hashes, found.offsets.astype(np.uint64), settings.values, settings.seed
        )
        matrix = np.array(made.to_rows(), np.uint32).reshape(len(part), settings.values)
        matrix[found.units == 0] = 0
        rows.append(matrix)
    width = 2 if settings.exact else settings.values
    return np.concatenate([np.zeros((0, width), np.uint32), *rows]), np.concatenate([np.zeros(0, np.int64), *units])


def _parts(texts: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array]:
    """Slices of at most ROWS texts and about BYTES."""
    chunks = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    for chunk in chunks:
        step = max(1, min(ROWS, int(len(chunk) * BYTES / max(chunk.nbytes, 1))))
        for first in range(0, len(chunk), step):
            yield chunk.slice(first, step)


def _whole(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """One 64-bit value a document, of its shingles in order, as two uint32."""
    place = np.arange(len(hashes)) - np.repeat(offsets[:-1], np.diff(offsets))
    keyed = mixed(hashes + place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(keyed, dtype=np.uint64)))
    return (sums[offsets[1:]] - sums[offsets[:-1]]).reshape(-1, 1).view(np.uint32)
