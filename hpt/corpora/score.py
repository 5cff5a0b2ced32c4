"""`hpt.data score`: precision and recall of a removal whose true pairs are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from hpt.console import cli
from trainer.data.cleaning.score import score


@dataclass(frozen=True, kw_only=True)
class Score(cli.Common):
    """Precision and recall of a removal against known pairs of duplicates."""

    removed: tyro.conf.Positional[Path]
    """What hpt.data dedup wrote: OUT/_hpt/removed.parquet, or its --removed."""
    pairs: Path
    """All true pairs, .jsonl or .parquet: a and b (ids of documents), or file_a, row_a, file_b, row_b."""


def run(config: Score, console: Console) -> int:
    found = score(config.removed, config.pairs)
    console.print(f"recall     {found.recall:.4f}   {found.found:,} of {found.true_pairs:,} pairs are in one cluster")
    console.print(
        f"precision  {found.precision:.4f}   {found.right:,} of {found.removed:,} removed are copies of what is kept"
    )
    config.answer(
        {**vars(found), "recall": found.recall, "precision": found.precision},
        f"recall {found.recall:.4f}, precision {found.precision:.4f}",
    )
    return 0
