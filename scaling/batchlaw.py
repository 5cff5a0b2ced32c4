"""The law of the best peak lr over parameters N, tokens D and batch B, and what is believed of it
before any run.

    ln lr*(N, D, B) = -a n + softmin(u, w)     n, d, b = ln of N, D, B over the target's
    u = c + delta + p1 b + q1 d                noise-limited: rises with B, falls with D
    w = c + p2 b + q2 d                        curvature-limited: moved by the number of steps, D / B, if at all

softmin(u, w) = -ln(e^(-4u) + e^(-4w)) / 4. At one batch the best lr falls with D while that batch
is small and rises while it is large: so laws fitted at one batch (Bjorck et al., arXiv 2409.19913:
D^-0.32) and at the best batch (Step Law, arXiv 2503.04715: D^+0.31) are both right, each on its
branch. Time Transfer (arXiv 2410.05838) has the same regimes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SHARPNESS = 4.0
NAMES = ("a", "c", "delta", "p1", "q1", "p2", "q2")


def law(theta: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ln lr*, its gradient by theta): (m,), (m, 7) at `points` (m, 3) of n, d, b relative to the
    target."""
    a, c, delta, p1, q1, p2, q2 = theta
    n, d, b = points.T
    u, w = c + delta + p1 * b + q1 * d, c + p2 * b + q2 * d
    value = -a * n - np.logaddexp(-SHARPNESS * u, -SHARPNESS * w) / SHARPNESS
    share = 1 / (1 + np.exp(np.clip(SHARPNESS * (u - w), -60, 60)))  # of the noise-limited branch
    rest = 1 - share
    return value, np.stack([-n, np.ones_like(n), share, share * b, share * d, rest * b, rest * d], axis=1)


SMALL = 8.5e7
"""Non-embedding parameters of GPT-2 124M, where scatter and curvature are known from others' runs."""
LAWLESS = 1e7
"""Parameters below which no published law was fitted; carried down from 1e8, N^-0.4 is out by a factor of 10 at 1e5."""
MANY = 1e10
"""Tokens from which recorded sweeps show at which batch the branches meet."""
T3 = 3.0  # degrees of freedom of the exponents whose prior has heavy tails


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Independent normals on the law's seven parameters and on the valley's shape; Student t3 where `tailed`."""

    mean: np.ndarray
    """(7,) in the order of NAMES."""
    sd: np.ndarray
    """(7,)"""
    valley_mean: np.ndarray
    """(4,) ln of curvature over loss at the target, its slopes by n and d, ln of the skewness k."""
    valley_sd: np.ndarray
    discrepancy: float = 0.16
    """Sd of what the law leaves unexplained at one (N, D, B), in ln lr."""
    reach: tuple[float, float, float] = (0.75, 3.0, 1.5)
    """Distances in n, d and b over which the unexplained part is alike (correlation e^-1)."""
    drift: float = 0.15
    """Sd of what it gains for every e-fold of N away from the target: far sizes tell less than near ones."""
    form: float = 0.05
    """Sd by which the valley's form misses the optimum of a cell, however many runs it has (3-point fits scatter by
    0.07 on recorded sweeps, wider ones are pulled by the wall)."""
    noise: float = 0.0007
    """Sd of a run's loss, as a fraction of it (0.06 % at 124M over 80 seeds; sweeps scatter as
    much)."""
    tailed: tuple[bool, ...] = (False,) * 7
    """Which of the seven data may move far: t3 pulls less the further they are."""

    def precision(self, theta: np.ndarray) -> np.ndarray:
        """(7,) of the normal that pulls at theta as this prior does."""
        r2 = ((theta - self.mean) / self.sd) ** 2
        return np.where(self.tailed, (T3 + 1) / (T3 + r2), 1.0) / self.sd**2

    def penalty(self, theta: np.ndarray) -> float:
        """-2 ln of its density at theta, but for a constant."""
        r2 = ((theta - self.mean) / self.sd) ** 2
        return float(np.where(self.tailed, (T3 + 1) * np.log1p(r2 / T3), r2).sum())


GUESS_SD = 0.6  # of a user's own guess of the lr, in ln lr: within a factor of 2, likely


def prior(n: float, d: float, b: float, parametrisation: str = "sp", guess: float | None = None) -> Prior:
    """What is believed of a target of `n` parameters, `d` tokens and `b` tokens a step, from
    published laws.

    Centre and width are those of their mixture, not of any one of them: N-exponents 0.71 (Step
    Law), 0.36 (Porian et al., 2406.19146), 0.23 (Bjorck et al.), 0.22 (2601.05049); they disagree
    13-fold on the lr of GPT-2 124M, and lr* rises with N in some families: 0.25 +- 0.30, with heavy tails.
    Below LAWLESS the level no longer rises. With muP and CompleteP the lr should not move with N, and is of
    another scale. The batch at which the branches meet is taken to lie below the best batch of Step
    Law, 0.58 D^0.571 tokens, by what recorded sweeps sliced at one batch show, within a factor of 3 (DeepSeek, Power
    Lines and 2607.01487 differ by less at 1e10 tokens and by more at 1e7); below MANY tokens it falls as D^0.7, for at
    1e5 to 1e6 tokens lr* was the same at batches of 128 and 512 (LOG, 2026-11-28), if anything higher where
    there were more steps: there w falls a little with B, and less so the nearer D is to MANY. The valley's curvature is
    h = 0.8 % of the loss per squared unit of ln lr (half or twice the best lr cost about that), within a factor of 2.2,
    and a run's loss scatters by 0.07 % from SMALL parameters up. Smaller models have steeper valleys and scatter more:
    5 % and 0.5 % at 1e5 parameters, on our own sweeps (notebooks/LOG.md); in between a power is drawn.
    The range in which lrs are to be searched is no witness of the level: it says where a user looks. A `guess` of
    theirs is, and data overrule it.
    """
    mup = parametrisation != "sp"
    meeting = 0.256 * d**0.571 * min(1.0, d / MANY) ** 0.13
    level, level_sd = (np.log(5e-3), 1.5) if mup else (np.log(2e-3) - 0.4 * np.log(max(n, LAWLESS) / 1e8), 0.8)
    if guess is not None:
        level, level_sd = np.log(guess), GUESS_SD
    small, few = max(1.0, SMALL / n), min(1.0, max(0.0, float(np.log(MANY / d) / np.log(1e4))))
    return Prior(
        mean=np.array([0.0 if mup else 0.25, level, 0.75 * np.log(b / meeting), 0.75, -0.35, -0.15 * few, 0.15]),
        sd=np.array([0.15 if mup else 0.30, level_sd, 0.8, 0.25, 0.3, 0.15, 0.25]),
        valley_mean=np.array([np.log(0.008 * small**0.27), -0.2, -0.2, np.log(0.9)]),
        valley_sd=np.array([0.8, 0.3, 0.3, 0.5]),
        discrepancy=0.16 * small**0.124,
        noise=0.0007 * small**0.29,
        tailed=(True, guess is not None, *(False,) * 5),
    )


def valley(z: np.ndarray, k: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(phi, d phi / dz, d phi / d ln k) of the Linex valley 2 (e^(kz) - 1 - kz) / k^2, z = ln lr -
    ln lr*.

    z^2 near the floor, linear in ln lr far below it, a wall above it: one convex form for the
    asymmetry that sweeps show. For a normal error of variance v its expected value is least at -k v
    / 2, and is v there (Varian 1975, Zellner 1986).
    """
    e = np.exp(np.minimum(k * z, 20.0))
    phi = 2 * (e - 1 - k * z) / k**2
    slope = 2 * (e - 1) / k
    return phi, slope, z * slope - 2 * phi
