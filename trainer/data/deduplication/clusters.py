"""Clusters of near-duplicates (connected components of the pairs), and which document of each is kept."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def clusters(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The documents that are in any pair, int64 [m] ascending, and the number of each one's cluster."""
    documents, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(-1, 2)
    graph = coo_array((np.ones(len(places), np.int8), (places[:, 0], places[:, 1])), shape=(len(documents),) * 2)
    return documents, connected_components(graph, directed=False)[1].astype(np.int64)


def removals(pairs: np.ndarray, sizes: np.ndarray | None = None) -> np.ndarray:
    """int64 [m, 2]: each document to remove with the one kept, in order of the removed.

    sizes: of all documents, to keep the largest of a cluster; else its first.
    """
    if not len(pairs):
        return np.zeros((0, 2), np.int64)
    documents, labels = clusters(pairs)
    rank = documents if sizes is None else np.lexsort((documents, -sizes[documents])).argsort()
    order = np.lexsort((rank, labels))
    first = np.ones(len(order), bool)
    first[1:] = labels[order[1:]] != labels[order[:-1]]
    kept = np.empty(len(documents), np.int64)
    kept[order] = documents[order[np.flatnonzero(first)[np.cumsum(first) - 1]]]
    gone = documents != kept
    return np.column_stack((documents, kept))[gone]
