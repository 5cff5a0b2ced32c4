"""How good a removal was, where the true pairs are known."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.corpus import JSON_LINES, open_bytes
from trainer.data.deduplication.clusters import clusters
from trainer.errors import UserError

Pair = tuple[Hashable, Hashable]
SHAPES = "a and b (ids of documents), or file_a, row_a, file_b, row_b"


@dataclass(frozen=True, kw_only=True)
class Score:
    true_pairs: int
    found: int
    """True pairs whose documents are in one cluster of the removal."""
    removed: int
    """Documents removed as duplicates."""
    right: int
    """Of them, those that a chain of true pairs joins to the document kept."""

    @property
    def recall(self) -> float:
        return self.found / max(1, self.true_pairs)

    @property
    def precision(self) -> float:
        return self.right / self.removed if self.removed else 1.0


def score(removed: Path, pairs: Path) -> Score:
    """removed: as `hpt.data dedup` writes it. pairs: .jsonl or .parquet with SHAPES, complete."""
    truth = list(_pairs(pairs))
    by_id = not truth or not isinstance(truth[0][0], tuple)
    gone = list(_removals(removed, by_id))
    names = {name: i for i, name in enumerate({name: None for pair in (*truth, *gone) for name in pair})}
    labels = [_labels(edges, names) for edges in (gone, truth)]

    def joined(pairs: list[Pair], label: np.ndarray) -> int:
        return sum(int(label[names[a]] == label[names[b]]) for a, b in pairs)

    return Score(
        true_pairs=len(truth), found=joined(truth, labels[0]), removed=len(gone), right=joined(gone, labels[1])
    )


def _labels(edges: list[Pair], names: dict[Hashable, int]) -> np.ndarray:
    """The cluster of each name; its own where no edge has it."""
    label = np.arange(len(names)) + len(names)
    if edges:
        documents, found = clusters(np.array([[names[a], names[b]] for a, b in edges]))
        label[documents] = found
    return label


def _removals(path: Path, by_id: bool) -> Iterator[Pair]:
    rows = _table(path)
    need = ("id", "kept_id") if by_id else ("file", "row", "kept_file", "kept_row")
    if missing := [name for name in need if rows and name not in rows[0]]:
        raise UserError(f"{path} has no column {', '.join(missing)}: give the removed.parquet of hpt.data dedup.")
    for row in rows:
        if row.get("reason", "duplicate") != "duplicate":
            continue
        if by_id and (row["id"] is None or row["kept_id"] is None):
            raise UserError(f"{path} has documents without an id, and the pairs name ids: give --id-field to dedup.")
        if by_id:
            yield row["id"], row["kept_id"]
        else:
            yield (row["file"], row["row"]), (row["kept_file"], row["kept_row"])


def _pairs(path: Path) -> Iterator[Pair]:
    for row in _table(path):
        if {"a", "b"} <= row.keys():
            yield str(row["a"]), str(row["b"])
        elif {"file_a", "row_a", "file_b", "row_b"} <= row.keys():
            yield (row["file_a"], row["row_a"]), (row["file_b"], row["row_b"])
        else:
            raise UserError(f"{path} has {', '.join(row)}: pairs are named by {SHAPES}.")


def _table(path: Path) -> list[dict[str, Any]]:
    try:
        if path.name.endswith(".parquet"):
            return pq.read_table(path).to_pylist()
        if path.name.endswith(JSON_LINES):
            with open_bytes(path) as lines:
                return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}).") from None
    raise UserError(f"{path} must be .parquet or .jsonl.")
