"""Is a variant better, by how much, and does it stay so with scale? From paired losses at several compute levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

SURE = 0.95


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Gaps are variant - baseline, nats a token: negative is better; of another unit, as `higher` says."""

    gaps: tuple[float, ...]
    """Mean over the seeds at each level, in the order of their compute."""
    errors: tuple[float, ...]
    """Standard errors: one noise pooled over the levels, since two or three seeds alone know none."""
    gap: float
    """Over all levels."""
    error: float
    trend: float
    """Change of the gap per e-fold of compute."""
    trend_error: float
    freedom: int
    unit: str = "nats"
    higher: bool = False
    """More is better, as of an accuracy."""

    @property
    def factor(self) -> float:
        """Standard errors that make a two-sided interval of SURE."""
        from scipy.stats import t as student  # 0.7 s of import, that no --help needs

        return float(student.ppf((1 + SURE) / 2, max(1, self.freedom)))

    @property
    def shown(self) -> bool:
        """The gap over all levels is not 0, and no level speaks clearly against it."""
        clear = abs(self.gap) > self.factor * self.error
        return clear and not any(g * self.gap < 0 and abs(g) > self.factor * e for g, e in self._levels())

    @property
    def word(self) -> str:
        """better or worse; empty where the gap cannot be told from noise."""
        if not self.shown:
            return ""
        return "better" if (self.gap > 0) == self.higher else "worse"

    def _levels(self) -> list[tuple[float, float]]:
        return list(zip(self.gaps, self.errors, strict=True))

    def sentence(self) -> str:
        """One line for people; signs are put into words."""
        unit = f" {self.unit}" if self.unit else ""
        amount = f"{abs(self.gap):.3f} +- {self.factor * self.error:.3f}{unit}"
        if not self.shown:
            return f"not shown: the gap is {self.gap:+.3f} +- {self.factor * self.error:.3f}{unit}"
        word = self.word
        same = all(g * self.gap > 0 for g in self.gaps)
        where = "at all sizes" if same else "on average, not at every size"
        towards = self.trend * math.copysign(1, self.gap)
        moves = "no trend with scale is seen"
        if abs(self.trend) > self.factor * self.trend_error:
            moves = "the gap grows with scale" if towards > 0 else "the gap shrinks with scale"
        advice = "recommended" if word == "better" and not moves.endswith("shrinks with scale") else "not recommended"
        return f"{word} by {amount} {where}; {moves}; {advice}"


def judge(compute: list[float], differences: list[list[float]], unit: str = "nats", higher: bool = False) -> Verdict:
    """`differences[i]`: variant - baseline of each seed at compute level i (FLOPs), on the same data in the same order.

    ValueError with fewer than two levels, or no level with two seeds: there is no noise to judge by.
    """
    counts = np.array([len(d) for d in differences])
    freedom = int((counts - 1).sum())
    if len(compute) < 2 or freedom < 1:
        raise ValueError("A verdict needs two levels of compute and two seeds at one of them.")
    gaps = np.array([np.mean(d) for d in differences])
    pooled = math.sqrt(sum(float(((np.array(d) - np.mean(d)) ** 2).sum()) for d in differences) / freedom)
    errors = np.maximum(pooled, 1e-6) / np.sqrt(counts)
    weights = errors**-2
    x = np.log(np.array(compute))
    centred = x - np.average(x, weights=weights)
    spread = float((weights * centred**2).sum())
    return Verdict(
        gaps=tuple(gaps.tolist()), errors=tuple(errors.tolist()),
        gap=float(np.average(gaps, weights=weights)), error=float(weights.sum() ** -0.5),
        trend=float((weights * centred * gaps).sum() / spread), trend_error=spread**-0.5, freedom=freedom,
        unit=unit, higher=higher,
    )  # fmt: skip


def power_law(compute: list[float], loss: list[float]) -> tuple[float, float] | None:
    """(A, alpha) of loss = A C^-alpha, least squares in logarithms; None with fewer than two levels."""
    if len(set(compute)) < 2:
        return None
    slope, level = np.polyfit(np.log(compute), np.log(loss), 1)
    return float(np.exp(level)), float(-slope)
