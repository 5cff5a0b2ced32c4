"""What makes two documents near-duplicates, and how likely that is seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.errors import UserError

LEAST_RECALL = 0.5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """MinHash with locality-sensitive hashing by bands (Broder 1997; Leskovec et al., Mining of Massive Datasets 3)."""

    threshold: float = 0.7
    """Jaccard similarity of the two sets of shingles, estimated by the whole signature, from which a pair counts."""
    shingle: int = 5
    """Words (or characters) in a row that make one element of a document's set."""
    unit: Literal["words", "characters"] = "words"
    """What a shingle is made of."""
    bands: int = 20
    """Two documents become candidates when all values of a band agree."""
    rows: int = 6
    """Values of the signature in a band."""
    check: bool = True
    """Compare whole signatures of candidates; else every candidate counts, whatever its similarity."""
    exact: bool = False
    """Only documents whose normalised text is the same."""
    keep: Literal["first", "longest"] = "first"
    """Which document of a cluster stays: the first in order of files and rows, or the one with most words."""
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UserError(f"--threshold {self.threshold:g} must be above 0 and at most 1, as in 0.7.")
        for name in ("shingle", "bands", "rows"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} must be at least 1, not {getattr(self, name)}.")
        recall = self.recall(self.threshold)
        if self.check and not self.exact and recall < LEAST_RECALL:
            raise UserError(
                f"{self.bands} bands of {self.rows} rows make candidates of only {recall:.1%} of the pairs at the "
                f"threshold of {self.threshold:g}: raise --bands, lower --rows, or raise --threshold."
            )

    @property
    def values(self) -> int:
        """Values of a signature."""
        return self.bands * self.rows

    def recall(self, similarity: float) -> float:
        """The chance that a pair of this Jaccard similarity becomes a candidate."""
        return 1 - (1 - similarity**self.rows) ** self.bands


LIKE: dict[str, Settings] = {
    "hpt": Settings(),
    # datatrove's defaults, as FineWeb was made (arXiv 2406.17557): no check.
    "fineweb": Settings(bands=14, rows=8, check=False),
    # NeMo Curator's fuzzy deduplication: 24 characters, no check since its version 1.
    "nemo": Settings(bands=20, rows=13, shingle=24, unit="characters", threshold=0.8, check=False),
}
"""Settings by name."""
