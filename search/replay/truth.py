"""The best lr of a recorded sweep, and what another lr gives up: by a smooth fit, and by the grid as it stands.

A grid's lowest loss is lucky (by 0.03 to 0.05 % where seeds scatter by 0.06 %), and its lr is a grid point's; the
smooth fit is neither, but is a form. So both are given. Beyond the recorded lrs nothing is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from scipy.interpolate import PchipInterpolator

NEAR = (
    0.015  # of the lowest loss: so far up a cubic fits Step Law's valleys to their seed noise, and a parabola does not
)
STEEP = 0.05  # how far up it may reach where few lrs are nearer
FEWEST = 5  # lrs for a cubic: one more than it has coefficients
DIP = 0.0075  # of the loss: a floor further below every run than this is the form's, beside a cliff, and nobody saw it
WIDE = math.log(3)  # between lrs; up to there a parabola through the best three finds the floor (x2: to 0.1 octaves)


class Truth(Protocol):
    """What is known of a target."""

    @property
    def best(self) -> float: ...
    @property
    def best_grid(self) -> float: ...
    def regret(self, lr: float, batch: int) -> tuple[float, float]:
        """Percent of the lowest loss by the smooth truth and by the grid; NaN where nothing is known."""
        ...


@dataclass(frozen=True)
class Valley:
    """Loss over ln lr of one sweep, its means at each lr; two finished lrs or more."""

    log_lr: np.ndarray
    """(points,) rising."""
    loss: np.ndarray
    """(points,) infinite: diverged."""

    @cached_property
    def _alive(self) -> tuple[np.ndarray, np.ndarray]:
        alive = np.isfinite(self.loss)
        return self.log_lr[alive], self.loss[alive]

    @property
    def finished(self) -> np.ndarray:
        """The ln lrs at which runs finished."""
        return self._alive[0]

    @cached_property
    def _grid(self) -> PchipInterpolator:
        return PchipInterpolator(*self._alive)  # monotone between points: its minimum is the grid's

    @property
    def edge(self) -> str:
        """`low` or `high` where the lowest loss is that of the lowest or highest lr that finished; else empty."""
        best, count = int(np.argmin(self._alive[1])), len(self._alive[1])
        return "low" if best == 0 else "high" if best == count - 1 else ""

    @cached_property
    def fit(self) -> tuple[np.ndarray, float, float] | None:
        """(coefficients of ln loss over ln lr less that of the lowest, first and last ln lr fitted); None: no minimum
        that the runs speak for.

        A cubic where five lrs or more are near enough; else a parabola through the best three, where they are dense.
        """
        x, y = self._alive
        best = int(np.argmin(y))
        if self.edge:
            return None
        low, high = self._near(best)
        degree = 3
        if high - low + 1 < FEWEST or best in (low, high):
            low, high, degree = best - 1, best + 1, 2
            if max(np.diff(x[low : high + 1])) > WIDE:
                return None
        here = slice(low, high + 1)
        fitted = np.polyfit(x[here] - x[best], np.log(y[here]), degree)
        grid = np.linspace(x[low], x[high], 401)
        valley = np.polyval(fitted, grid - x[best])
        inside = 0 < int(np.argmin(valley)) < len(grid) - 1
        return (fitted, float(x[low]), float(x[high])) if inside and valley.min() > math.log(y[best]) - DIP else None

    def _near(self, best: int) -> tuple[int, int]:
        """First and last of the lrs about the best whose losses are near its, outward by rising loss."""
        y = self._alive[1]
        low = high = best
        while low > 0 or high < len(y) - 1:
            left = y[low - 1] if low > 0 else math.inf
            right = y[high + 1] if high < len(y) - 1 else math.inf
            reach = NEAR if high - low + 1 >= FEWEST else STEEP
            if min(left, right) > (1 + reach) * y[best]:
                break
            low, high = (low - 1, high) if left <= right else (low, high + 1)
        return low, high

    def at(self, log_lr: float) -> float:
        """The smooth loss: the fit where it holds, else through the points; infinite: diverged; NaN: unknown."""
        if self.fit is not None and self.fit[1] <= log_lr <= self.fit[2]:
            return math.exp(float(np.polyval(self.fit[0], log_lr - self.centre)))
        return self.at_grid(log_lr)

    def at_grid(self, log_lr: float) -> float:
        """The loss through the points as they are."""
        x = self._alive[0]
        if x[0] - 1e-9 <= log_lr <= x[-1] + 1e-9:
            return float(self._grid(np.clip(log_lr, x[0], x[-1])))
        nearest = int(np.argmin(np.abs(self.log_lr - log_lr)))
        inside = self.log_lr[0] <= log_lr <= self.log_lr[-1]
        return math.inf if inside and math.isinf(self.loss[nearest]) else math.nan

    @property
    def centre(self) -> float:
        """ln of the grid's best lr."""
        x, y = self._alive
        return float(x[np.argmin(y)])

    @cached_property
    def best(self) -> float:
        """ln of the smooth best lr; the grid's where nothing could be fitted."""
        if self.fit is None:
            return self.centre
        grid = np.linspace(self.fit[1], self.fit[2], 2001)
        return float(grid[np.argmin(np.polyval(self.fit[0], grid - self.centre))])

    @property
    def lowest(self) -> float:
        return self.at(self.best)

    @property
    def lowest_grid(self) -> float:
        return float(self._alive[1].min())

    def regret(self, lr: float) -> tuple[float, float]:
        """Percent of the lowest loss by the smooth truth (never below 0) and by the grid."""
        smooth, grid = self.at(math.log(lr)), self.at_grid(math.log(lr))
        return 100 * max(0.0, smooth / self.lowest - 1) if not math.isnan(smooth) else math.nan, 100 * (
            grid / self.lowest_grid - 1
        )
