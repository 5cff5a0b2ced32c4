"""The forms that ln lr may take along one or two scales, and the robust linear fit that all of them share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.arrays import Array

HUBER = 1.345  # standardised residual from which a point counts less; 95 % efficient for normal errors


@dataclass(frozen=True)
class Family:
    """A form that is linear in its coefficients, in ln lr or in lr itself."""

    name: str
    formula: str
    variables: str
    basis: Callable[[Array], Array]
    """From ln(x / x_ref), shape (points, variables), to columns."""
    in_lr: bool
    reach: float
    """How many times the measured span of ln x it may be carried beyond it."""


def _columns(*functions: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda z: np.stack([np.ones(len(z)), *(f(z[:, 0]) for f in functions)], axis=1)


def families(variables: Sequence[str]) -> list[Family]:
    """All forms in these variables (N, D, C); with both N and D also the power law in the two."""
    found = [Family("none", "lr = a", variables[0], _columns(), False, math.inf)]
    for v in variables:
        found += [
            Family(f"power in {v}", f"lr = a {v}^b", v, _columns(lambda z: z), False, 4),
            Family(f"linear in {v}", f"lr = a + b {v}", v, _columns(np.exp), True, 1),
            Family(f"square root in {v}", f"lr = a + b sqrt({v})", v, _columns(lambda z: np.exp(z / 2)), True, 2),
            Family(f"log in {v}", f"lr = a + b ln {v}", v, _columns(lambda z: z), True, 4),
            Family(f"exponential in {v}", f"lr = a exp(b {v})", v, _columns(np.exp), False, 1),
            Family(
                f"polynomial in {v}", f"ln lr = a + b ln {v} + c ln^2 {v}", v,
                _columns(lambda z: z, lambda z: z**2), False, 1,
            ),
        ]  # fmt: skip
    if {"N", "D"} <= set(variables):
        both = lambda z: np.concatenate([np.ones((len(z), 1)), z], axis=1)  # noqa: E731
        found.append(Family("power in N and D", "lr = a N^b D^c", "ND", both, False, 4))
    return found


def robust_fit(X: Array, y: Array, sd: Array) -> tuple[Array, Array, Array]:
    """Coefficients, covariance and leave-one-out errors of a Huber-weighted linear fit.

    The covariance grows with the misfit (a prior of two well-fitting observations keeps it from
    collapsing or exploding on few points).
    """
    n, p = X.shape

    def solve(w: Array) -> tuple[Array, Array, Array]:
        cov = np.linalg.pinv((X * w[:, None]).T @ X)
        beta = cov @ (X.T @ (w * y))
        return beta, cov, y - X @ beta

    w = 1 / sd**2
    beta, cov, residual = solve(w)
    for _ in range(20 if n > p + 1 else 0):
        w = np.minimum(1, HUBER / np.maximum(np.abs(residual / sd), 1e-12)) / sd**2
        beta, cov, residual = solve(w)
    leverage = np.clip(w * np.einsum("ij,jk,ik->i", X, cov, X), 0, 1 - 1e-9)
    chi2 = float(np.sum(w * residual**2))
    spread = max(1.0, (chi2 + 2) / (n - p + 2))
    return beta, np.asarray(cov * spread), residual / (1 - leverage)
