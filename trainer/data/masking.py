"""Which tokens a masked language model is asked for, and what stands there instead: a pure function of the seed, the
position in the stream and the tokens, so that resuming and splitting over workers need no state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NOTHING = -1
"""No token: padding in a sequence, no loss as a target."""
VALIDATION = 0x5EED
"""Seed of the masks on held-out tokens: the same in every run."""


@dataclass(frozen=True, kw_only=True)
class Masking:
    """BERT's rule (arXiv 1810.04805). Of each sequence exactly the share `rate` of its ordinary tokens is asked for,
    rounded, at least one: BERT drew as many as its rate says as well, later code draws each by itself."""

    rate: float
    masked: float
    """Share of those asked for that become the mask token."""
    random: float
    """Share that becomes any token of the vocabulary; the rest stays as it is, and is asked for all the same."""
    token: int
    """The mask token's id."""
    vocabulary: int
    """Ids that a random token is drawn from: below this."""
    end_of_text: int
    """Never asked for."""

    def apply(self, tokens: np.ndarray, first: int, seed: int | None) -> tuple[np.ndarray, np.ndarray]:
        """tokens [B, T], the windows first ... first + B - 1 of a stream -> (tokens as the model sees them, targets
        [B, T], NOTHING where none is asked for). seed None: of held-out tokens."""
        rows, columns = tokens.shape
        ordinary = (tokens != self.end_of_text) & (tokens != NOTHING)
        counts = np.maximum(np.rint(self.rate * ordinary.sum(1)).astype(np.int64), ordinary.any(1))
        order = uniform(rows, columns, first, seed, 0)
        order[~ordinary] = 2.0  # behind all others
        places = np.argsort(order, axis=1, kind="stable")
        asked = np.zeros_like(ordinary)
        np.put_along_axis(asked, places, np.arange(columns) < counts[:, None], axis=1)
        fate = uniform(rows, columns, first, seed, 1)
        other = (uniform(rows, columns, first, seed, 2) * self.vocabulary).astype(np.int64)
        seen = np.where(asked & (fate < self.masked), self.token, tokens)
        seen = np.where(asked & (fate >= self.masked) & (fate < self.masked + self.random), other, seen)
        return seen, np.where(asked, tokens, NOTHING)


def uniform(rows: int, columns: int, first: int, seed: int | None, salt: int) -> np.ndarray:
    """Numbers in [0, 1) [rows, columns] that depend on the seed, the row's number in the stream, the column and salt:
    the finaliser of splitmix64 (Steele, Lea, Flood 2014), which needs no generator a row."""
    key = np.array([(VALIDATION if seed is None else seed + 2**33) * 4 + salt], np.uint64)
    row = _mixed(_mixed(key) + np.arange(first, first + rows, dtype=np.uint64))
    mixed = _mixed(row[:, None] + np.arange(columns, dtype=np.uint64)[None])
    return (mixed >> np.uint64(11)) * 2.0**-53


def _mixed(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
