"""Candidates that are near-duplicates, by the whole signature."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from trainer.data.deduplication.settings import Settings

AT_A_TIME = 2**15


class Signatures(Protocol):
    """An array [documents, values], or what gathers its rows from elsewhere."""

    def __getitem__(self, documents: np.ndarray, /) -> np.ndarray: ...


def similarities(signatures: Signatures, pairs: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of each pair of rows; its standard error is sqrt(j (1 - j) / values)."""
    found = np.empty(len(pairs), np.float32)
    for first in range(0, len(pairs), AT_A_TIME):
        part = pairs[first : first + AT_A_TIME]
        found[first : first + len(part)] = (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1)
    return found


def checked(signatures: Signatures, pairs: np.ndarray, settings: Settings) -> np.ndarray:
    """The pairs that count."""
    if settings.exact or not settings.check:
        return pairs
    return pairs[similarities(signatures, pairs) >= settings.threshold - 1e-6]
