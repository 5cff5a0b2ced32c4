"""Candidates: documents that agree in all values of a band."""

from __future__ import annotations

import numpy as np

from trainer.data.deduplication.settings import Settings
from trainer.data.deduplication.shingles import BASE, mixed


def keys(signatures: np.ndarray, band: int, settings: Settings) -> np.ndarray:
    """uint64 [n]: equal where a band's values are, and in no two bands (but by chance, 2^-64 a pair)."""
    columns = signatures if settings.exact else signatures[:, band * settings.rows : (band + 1) * settings.rows]
    made = np.full(len(signatures), band + 1, np.uint64)
    for column in columns.T:
        made = mixed(made * np.uint64(BASE) + column)
    return made


def candidates(keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """int64 [m, 2]: each document with the first that has its key, the lower first. documents: int64 [n]."""
    order = np.lexsort((documents, keys))
    sorted_keys = keys[order]
    new = np.ones(len(order), bool)
    new[1:] = sorted_keys[1:] != sorted_keys[:-1]
    firsts = documents[order[np.flatnonzero(new)[np.cumsum(new) - 1]]] if len(order) else documents
    return np.column_stack((firsts, documents[order]))[~new]


def unique(pairs: np.ndarray) -> np.ndarray:
    """Each pair once, in order."""
    if not len(pairs):
        return np.zeros((0, 2), np.int64)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    new = np.ones(len(pairs), bool)
    new[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
    return pairs[new]
