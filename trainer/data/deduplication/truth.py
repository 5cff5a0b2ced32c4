"""All pairs above a similarity, exactly: what the estimates are judged by. Slow on purpose to be sure."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from trainer.data.deduplication.settings import Settings
from trainer.data.deduplication.shingles import shingles


def sets(texts: pa.Array, settings: Settings) -> list[np.ndarray]:
    """Each document's distinct shingles, sorted."""
    found = shingles(texts, settings)
    return [np.unique(found.hashes[a:b]) for a, b in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Of two sorted sets."""
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(1, len(one) + len(other) - shared)


def similar_pairs(documents: list[np.ndarray], threshold: float) -> dict[tuple[int, int], float]:
    """Every pair of Jaccard similarity >= threshold, by prefix filtering (Chaudhuri et al. 2006, Bayardo et al. 2007).

    Elements are ordered by how rare they are; two such sets must share one of their first |x| - ceil(t |x|) + 1.
    """
    values, places, counts = np.unique(np.concatenate(documents), return_inverse=True, return_counts=True)
    rank = np.empty(len(values), np.int64)
    rank[np.lexsort((values, counts))] = np.arange(len(values))
    ends = np.cumsum([len(d) for d in documents])
    members, owners = [], []
    for i, (size, end) in enumerate(zip(map(len, documents), ends, strict=True)):
        ranks = np.sort(rank[places[end - size : end]])
        prefix = ranks[: size - int(np.ceil(threshold * size - 1e-9)) + 1]
        members.append(prefix)
        owners.append(np.full(len(prefix), i))
    member, owner = np.concatenate(members), np.concatenate(owners)
    order = np.lexsort((owner, member))
    member, owner = member[order], owner[order]
    bounds = np.flatnonzero(np.diff(member)) + 1
    seen: set[tuple[int, int]] = set()
    for group in np.split(owner, bounds):
        if len(group) > 1:
            listed = group.tolist()
            seen.update((a, b) for i, a in enumerate(listed) for b in listed[i + 1 :])
    found = {}
    for a, b in seen:
        x, y = len(documents[a]), len(documents[b])
        if min(x, y) >= threshold * max(x, y) and (s := jaccard(documents[a], documents[b])) >= threshold:
            found[a, b] = s
    return found
