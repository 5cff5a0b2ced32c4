"""The optimum of loss against ln lr at one (N, D, B), from few noisy points.

The valley is L(x) = L0 + curvature * h(x - m): quadratic at its floor m, growing only linearly far below it
and with a wall above it (what 120 slices of the Step Law sweep, arXiv 2503.04715, show). m is integrated over
a grid together with curvature, wall and noise, so two points give a wide answer and ten a narrow one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.special import log_ndtr

from scaling.arrays import Array

Edge = Literal["low", "high"]

KNEE = 1.2  # nats below the floor where the quadratic turns linear (median slice)
WALLS = np.array([0.0, 0.4, 1.0, 2.5])  # cubic part of the high side, per nat
WALL_PRIOR = np.log([0.4, 0.35, 0.18, 0.07])
CURVATURE = (
    0.02  # second derivative over the loss: median of the slices; 90 % lie within a factor of 3
)
CURVATURE_SD = 1.0  # of its ln: wider than the slices, other families differ
NOISE = 7e-4  # of the loss, where no noise is told: a little over the seed noise at 124M (0.058 %)
NOISE_WEIGHT = 6.0  # observations that this guess counts for
FORM = 0.12  # error of the form: this fraction of a point's height above the best
CLIFF, CLIFF_SD = 1.4, 0.7  # nats between the floor and the lowest lr that diverges
REACH = 2.0  # nats beyond the lrs tried in which the floor may still lie


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
    edge: Edge | None = None
    """The optimum lies at or beyond this end of the lrs that were tried; then `log_lr` is that end, not a fit."""
    points: tuple[int, ...] = ()
    """Indices of the observations used."""
    method: str = ""
    reasons: tuple[str, ...] = field(default=())
    """Doubts, one sentence each."""


def valley(z: Array, wall: Array | float = 0.4) -> Array:
    """Loss above the floor per unit curvature, z nats of lr from it: z^2/2 near 0, steeper above, linear far below."""
    low = KNEE**2 * (np.sqrt(1 + (z / KNEE) ** 2) - 1)
    return np.where(z < 0, low, z**2 / 2 * (1 + wall * z))


def fit_optimum(
    lr: Sequence[float],
    loss: Sequence[float],
    *,
    diverged: Sequence[float] = (),
    noise: float | None = None,
) -> Optimum | None:
    """The optimum of `loss` (nats/token) over peak `lr`; None only when there is no finite point.

    `diverged`: lrs of diverged runs, censored: the floor lies below the lowest of them, softly. `noise`: sd of
    one run's loss in nats; None: estimated from repeated lrs and residuals, around 0.07 % of the loss.
    """
    observed = _average(lr, loss)
    if observed is None:
        return None
    x, y, counts, scatter, used = observed
    best = int(np.argmin(y))
    cliff, reasons = _cliff(diverged, x[best])
    sigma = noise if noise else NOISE * abs(y[best])
    weight = 1 / (1 / counts + (FORM * (y - y[best]) / sigma) ** 2)
    free = math.inf if noise else NOISE_WEIGHT + float(np.sum(counts - 1))
    floor = free * sigma**2 + scatter if not noise else sigma**2
    lo, hi = x[0] - REACH, x[-1] + REACH
    for step in range(2):  # a coarse look, then a finer one where the mass lies
        grid = np.linspace(lo, hi, 161)
        log_p, curvature, level = _posterior(grid, x, y, weight, floor, free, cliff)
        p = np.exp(log_p - log_p.max())
        p /= p.sum()
        mean = float(p @ grid)
        sd = max(math.sqrt(float(p @ (grid - mean) ** 2)), (hi - lo) / 160)
        if step == 0:
            lo, hi = max(lo, mean - 5 * sd), min(hi, mean + 5 * sd)
    edge = _edge(x, best, cliff, float(p[grid < x[0]].sum()), float(p[grid > x[-1]].sum()))
    if edge:
        end = x[0] if edge == "low" else x[-1]
        mean, sd = float(end), math.sqrt(float(p @ (grid - end) ** 2))
        reasons.append(
            f"The best lr tried, {math.exp(end):.3g}, is the {edge}est: the optimum may lie beyond it."
        )
    if len(x) < 3:
        reasons.append(f"Only {len(x)} lr{'s' * (len(x) > 1)} finished: three make a bracket.")
    return Optimum(
        log_lr=mean, sd=sd, loss=float(p @ level), curvature=float(p @ curvature), edge=edge, points=used,
        method=f"asymmetric valley through {len(x)} lrs", reasons=tuple(reasons),
    )  # fmt: skip


def regret(optimum: Optimum, log_lr: float) -> float:
    """Expected loss given up (nats/token) by using `log_lr`, over the uncertainty of the optimum."""
    curvature = optimum.curvature or CURVATURE * optimum.loss
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    return curvature * float(
        weights @ valley(log_lr - optimum.log_lr - optimum.sd * nodes) / weights.sum()
    )


def _average(
    lr: Sequence[float], loss: Sequence[float]
) -> tuple[Array, Array, Array, float, tuple[int, ...]] | None:
    """Sorted ln lr, mean loss and count of each lr (equal within 2 %), the scatter within, and indices used."""
    if len(lr) != len(loss) or any(not (math.isfinite(v) and v > 0) for v in lr):
        raise ValueError(
            "fit_optimum needs one loss for each lr, and lrs that are positive numbers."
        )
    used = sorted((i for i, v in enumerate(loss) if math.isfinite(v)), key=lambda i: lr[i])
    if not used:
        return None
    groups: list[list[int]] = [[used[0]]]
    for i in used[1:]:
        same = math.log(lr[i] / lr[groups[-1][0]]) < 0.02
        groups[-1].append(i) if same else groups.append([i])
    x = np.array([np.mean([math.log(lr[i]) for i in g]) for g in groups])
    y = np.array([np.mean([loss[i] for i in g]) for g in groups])
    scatter = sum((loss[i] - m) ** 2 for g, m in zip(groups, y, strict=True) for i in g)
    return x, y, np.array([float(len(g)) for g in groups]), float(scatter), tuple(sorted(used))


def _cliff(diverged: Sequence[float], best: float) -> tuple[float | None, list[str]]:
    """ln of the lowest lr above the best that diverged; a sentence when one below it did."""
    logs = [math.log(v) for v in diverged]
    above = [v for v in logs if v > best]
    odd = [v for v in logs if v <= best]
    reasons = (
        [
            f"A run at lr {math.exp(odd[0]):.3g}, not above the best, diverged: stability is not certain."
        ]
        if odd
        else []
    )
    return (min(above) if above else None), reasons


def _edge(x: Array, best: int, cliff: float | None, below: float, above: float) -> Edge | None:
    """Which end the optimum lies at; a divergence up to x4 above the best closes the bracket."""
    closed = cliff is not None and cliff - x[-1] <= math.log(4) + 1e-9
    if len(x) == 1:
        return "low" if closed else "high"
    if best == 0 and below > 0.2:
        return "low"
    return "high" if best == len(x) - 1 and above > 0.2 and not closed else None


def _posterior(
    grid: Array, x: Array, y: Array, weight: Array, floor: float, free: float, cliff: float | None
) -> tuple[Array, Array, Array]:
    """ln density of the floor's place on `grid`, and there the expected curvature and floor loss.

    L0 has a flat prior and is integrated out, curvature and wall are summed over, noise is a scaled
    inverse chi^2 (Student t) of `free` observations; infinite: known.
    """
    guess = math.log(CURVATURE * abs(float(y.min())) + 1e-300)
    ks = guess + CURVATURE_SD * np.linspace(-3.5, 3.5, 29)
    h = valley(x[None, None, :] - grid[:, None, None], WALLS[None, :, None])
    w = weight / weight.sum()
    h_mean, y_mean = h @ w, float(y @ w)
    hc, yc = h - h_mean[..., None], y - y_mean
    hh, hy, yy = (hc**2) @ weight, (hc * yc) @ weight, float(weight @ yc**2)
    k = np.exp(ks)
    rss = yy - 2 * k * hy[..., None] + k**2 * hh[..., None]
    if math.isinf(free):
        log_like = -rss / (2 * floor)
    else:
        log_like = -(free + len(x) - 1) / 2 * np.log(np.maximum(floor + rss, 1e-300))
    log_all = log_like - (ks - guess) ** 2 / (2 * CURVATURE_SD**2) + WALL_PRIOR[None, :, None]
    if cliff is not None:
        log_all = log_all + log_ndtr((cliff - grid - CLIFF) / CLIFF_SD)[:, None, None]
    top = log_all.max(axis=(1, 2), keepdims=True)
    p = np.exp(log_all - top)
    mass = p.sum(axis=(1, 2))
    curvature = (p * k).sum(axis=(1, 2)) / mass
    level = ((y_mean - k * h_mean[..., None]) * p).sum(axis=(1, 2)) / mass
    return top[:, 0, 0] + np.log(mass), curvature, level
