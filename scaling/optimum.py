"""The optimum of loss against ln lr at one (N, D, B), from few noisy points.

Form: loss = floor + h d^2 (1 + skew max(d, 0)), d = ln lr - optimum: a quadratic valley (the noisy quadratic limit
near an optimum) with one-sided wall, for too high an lr costs more than one too low by the same factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Array = np.ndarray

# Priors, from 117 slices of Step Law's sweep (arXiv 2503.04715): x2 costs .84 % of the loss, /2 costs .33 %.
RELATIVE_H, RELATIVE_H_SD = 0.0069, 1.2  # of the loss, ln lr^-2; sd of its logarithm
SKEW, SKEW_SD = 1.0, 1.0
FORM_ERROR = 0.25  # the form is trusted to this fraction of what a point lies above the floor
NOISE = 0.001  # sd of a run's loss relative to it, where nothing better is known (0.06 % at 124M, more when smaller)
MIN_SD = 0.05  # nats of ln lr: no finite sweep knows better (3-point fits scatter by 0.07)
CLOSED = math.log(4) + 1e-9  # a divergence up to here above the best closes the bracket
SAME = 0.02  # lrs closer than this in ln are one


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Where the valley of loss(ln lr) has its floor, and how surely."""

    log_lr: float
    """ln of the best lr."""
    sd: float
    """Standard deviation of `log_lr` (nats); covers noise and the form of the curve."""
    loss: float
    """Loss at the floor."""
    curvature: float
    """Second derivative of loss by ln lr at the floor; 0 when unknown."""
    skew: float = SKEW
    """How much steeper the high side is: the excess there is times (1 + skew d)."""
    edge: Literal["low", "high"] | None = None
    """The optimum lies at or beyond this end of the lrs that were tried; then `log_lr` is that end, not a fit."""
    points: int = 0
    """Distinct finite lrs used."""
    reasons: tuple[str, ...] = field(default=())
    """Doubts, one sentence each."""

    def excess(self, log_lr: Array | float) -> Array:
        """Loss above the floor at `log_lr`, nats a token."""
        d = np.asarray(log_lr, float) - self.log_lr
        return self.curvature / 2 * d**2 * (1 + self.skew * np.maximum(d, 0))


def fit_optimum(
    lr: Sequence[float],
    loss: Sequence[float],
    *,
    diverged: Sequence[float] = (),
    noise: float | None = None,
) -> Optimum | None:
    """Fit the valley; None where no finite loss is given.

    lr: peak lrs of runs that finished; loss: theirs, nats a token. diverged: lrs of runs that diverged; they are
    censored: known only to be worse than every finite one. noise: sd of one run's loss, nats.
    """
    x, y, counts = _merged(lr, loss)
    if not len(x):
        return None
    sigma = noise if noise is not None else _noise(lr, loss, float(y.min()))
    best = int(np.argmin(y))
    above = sorted(math.log(v) for v in diverged if math.log(v) > x[best])
    walled = bool(above) and above[0] - x[-1] <= CLOSED  # a divergence far above bounds nothing
    if len(x) == 1:
        return _ended(x, y, "low" if walled else "high", above, "only one learning rate finished")
    if best == 0:
        return _ended(x, y, "low", above, "the lowest learning rate tried is the best")
    if best == len(x) - 1:
        if not walled:
            return _ended(x, y, "high", above, "the highest learning rate tried is the best")
        return _ended(x, y, None, above, "the best learning rate is the last below divergence")
    theta, sd = _valley(x, y, counts, sigma, above)
    m, log_h, skew, floor = theta
    reasons = [f"the optimum rests on {len(x)} learning rates"] if len(x) < 4 else []
    if any(math.log(v) <= x[best] for v in diverged):
        reasons.append(f"a run at lr {min(diverged):.3g}, not above the best, diverged: stability is not certain")
    m = float(np.clip(m, x[0], x[-1]))
    return Optimum(
        log_lr=m,
        sd=float(np.clip(sd, MIN_SD, max(MIN_SD, (x[-1] - x[0]) / 2))),  # the ends are known to be worse
        loss=float(floor),
        curvature=2 * math.exp(log_h),
        skew=float(skew),
        points=len(x),
        reasons=tuple(reasons),
    )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Which lr to use when the optimum is only known to be about N(log_lr, sd)."""

    log_lr: float
    expected_regret: float
    """Nats a token."""
    worst_regret: float
    """At the worse end of the 90 % interval."""


def decide(optimum: Optimum, log_lr: float, sd: float) -> Decision:
    """The lr of least expected excess loss, the optimum being normal about `log_lr`.

    The high side is the steeper, so it is a shade below the mean; never below the central half of what is believed, for
    how steep a valley is far from its floor is a guess. Both regrets are 0 where the curvature is unknown.
    """
    unit = replace(optimum, log_lr=0.0, curvature=1.0)  # where the least is does not depend on it
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    weights = weights / weights.sum()
    shifts = np.linspace(-0.67, 0.33, 121) * sd
    expected = np.array([weights @ unit.excess(shift - sd * nodes) for shift in shifts])
    best = int(np.argmin(expected))
    ends = unit.excess(shifts[best] - 1.645 * sd * np.array([-1.0, 1.0]))
    return Decision(
        log_lr=log_lr + float(shifts[best]),
        expected_regret=optimum.curvature * float(expected[best]),
        worst_regret=optimum.curvature * float(ends.max()),
    )


def _merged(lr: Sequence[float], loss: Sequence[float]) -> tuple[Array, Array, Array]:
    """ln lr ascending, mean loss and number of runs; nearly equal lrs are one point."""
    if len(lr) != len(loss) or any(not (math.isfinite(v) and v > 0) for v in lr):
        raise ValueError("fit_optimum needs one loss for each lr, and lrs that are positive numbers.")
    pairs = sorted((math.log(a), b) for a, b in zip(lr, loss, strict=True) if math.isfinite(b))
    groups: list[list[tuple[float, float]]] = []
    for pair in pairs:
        if groups and pair[0] - groups[-1][0][0] < SAME:
            groups[-1].append(pair)
        else:
            groups.append([pair])
    means = np.array([np.mean(g, axis=0) for g in groups]).reshape(-1, 2)
    return means[:, 0], means[:, 1], np.array([len(g) for g in groups], float)


def _noise(lr: Sequence[float], loss: Sequence[float], level: float) -> float:
    """sd of a run's loss: pooled over replicates where there are three or more, else the usual relative one."""
    by_lr: dict[int, list[float]] = {}
    for a, b in zip(lr, loss, strict=True):
        if math.isfinite(b):
            by_lr.setdefault(round(math.log(a) / SAME), []).append(b)
    repeated = [g for g in by_lr.values() if len(g) > 1]
    degrees = sum(len(g) - 1 for g in repeated)
    if degrees < 3:
        return NOISE * level
    pooled = sum((len(g) - 1) * float(np.var(g, ddof=1)) for g in repeated) / degrees
    return max(math.sqrt(pooled), 0.1 * NOISE * level)


def _ended(x: Array, y: Array, edge: Literal["low", "high"] | None, above: Sequence[float], why: str) -> Optimum:
    """The optimum where the tried lrs do not bracket it."""
    best = int(np.argmin(y))
    at, sd = float(x[best]), 1.0
    if edge is None:  # between its lower neighbour and the first diverged run, which is known to be worse
        low = float(x[best - 1]) if best else at - 1.0
        sd = max((above[0] - low) / 4, MIN_SD)
    h = RELATIVE_H * float(y[best])
    return Optimum(
        log_lr=at,
        sd=sd,
        loss=float(y[best]),
        curvature=2 * h,
        edge=edge,
        points=len(x),
        reasons=(why,),
    )


def _valley(x: Array, y: Array, counts: Array, sigma: float, above: Sequence[float]) -> tuple[Array, float]:
    """MAP of (optimum, ln h, skew, floor) and the sd of the optimum by Laplace's approximation."""
    lowest = float(y.min())
    # A finite run is known to its noise; the form itself to a fraction of what it lies above the floor, so that the
    # points near the optimum decide and distant ones only say on which side it is.
    error = np.sqrt(sigma**2 / counts + (FORM_ERROR * (y - lowest)) ** 2)
    cap = lowest + max(float(y.max()) - lowest, 0.05 * lowest)

    def residuals(theta: Array) -> Array:
        m, log_h, skew, floor = theta
        h = math.exp(min(log_h, 50.0))

        def form(at: Array) -> Array:
            d = at - m
            return floor + h * d**2 * (1 + skew * np.maximum(d, 0))

        prior = [(log_h - math.log(RELATIVE_H * lowest)) / RELATIVE_H_SD, (skew - SKEW) / SKEW_SD]
        censored = np.maximum(cap - form(np.array(above[:1])), 0) / (0.5 * cap - 0.5 * lowest + sigma)
        return np.concatenate([(form(x) - y) / error, prior, censored])

    start = _parabola(x, y)
    log_h = math.log(RELATIVE_H * lowest)
    bounds = ([x[0] - 2, log_h - 8, 0, -np.inf], [x[-1] + 2, log_h + 8, 10, np.inf])
    from scipy.optimize import least_squares  # half a second of import, that no --help needs

    found = least_squares(
        residuals,
        [start, log_h, SKEW, lowest],
        bounds=bounds,
        x_scale=[0.3, 1.0, 1.0, max(sigma, 1e-12)],
        max_nfev=60,
    )
    # As soft as a Student t with the few points there are: the scatter may be larger than `sigma` says.
    scatter = max(1.0, 2 * found.cost / max(1, len(x) - 2))
    covariance = np.linalg.pinv(found.jac.T @ found.jac)
    return found.x, math.sqrt(max(covariance[0, 0], 0) * scatter)


def _parabola(x: Array, y: Array) -> float:
    """Vertex of the parabola through the best point and, on either side, the one nearest to a factor of two away."""
    best = int(np.argmin(y))
    left = min(range(best), key=lambda i: abs(x[best] - x[i] - math.log(2)), default=None)
    right = min(range(best + 1, len(x)), key=lambda i: abs(x[i] - x[best] - math.log(2)), default=None)
    if left is None or right is None:
        return float(x[best])
    a, b, _ = np.polyfit(x[[left, best, right]] - x[best], y[[left, best, right]], 2)
    return float(x[best] - b / (2 * a)) if a > 0 else float(x[best])
