"""What a fit of the batch-conditional law knows, and its predictions anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.batchlaw import Prior, law

SCATTER = 0.3  # prior sd of ln curvature from cell to cell
HEAD = 11  # latents before the cells': theta (7), valley (4)


@dataclass(frozen=True)
class Runs:
    """Finished and diverged runs; all arrays (runs,)."""

    n: np.ndarray
    """ln N over the target's, and so on."""
    d: np.ndarray
    b: np.ndarray
    log_lr: np.ndarray
    loss: np.ndarray
    """Nats; infinite where the run diverged."""
    doubt: np.ndarray | float = 0.0
    """Sd of a loss beyond the common noise, as a fraction of it."""

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def points(self) -> np.ndarray:
        """(runs, 3) of n, d, b."""
        return np.column_stack([self.n, self.d, self.b])


@dataclass(frozen=True)
class Posterior:
    """The fitted law: normal in all its latents, ordered theta, valley, eps by cell, zeta by cell,
    floor by cell."""

    prior: Prior
    cells: np.ndarray
    """(cells, 3) of n, d, b; those with runs."""
    mean: np.ndarray
    """(11 + 3 cells,)"""
    cov: np.ndarray
    noise: float
    discrepancy: float
    used: int
    """Runs behind the fit, diverged ones included."""

    @property
    def k(self) -> float:
        return float(np.exp(self.mean[10]))

    def predict(self, n: float = 0.0, d: float = 0.0, b: float = 0.0) -> tuple[float, float]:
        """(mean, sd) of ln lr* at a point relative to the target; without arguments, at the
        target."""
        mean, cov = self.at(np.array([[n, d, b]]))
        return float(mean[0]), float(np.sqrt(max(cov[0, 0] - self.prior.form**2, 0.0)))

    def at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Joint (mean, cov) at `points` (m, 3) of mu (m), then eta (m), then ln k, then the floors
        of the cells with runs. mu is where a fitted valley would have its floor: what its form misses is in it."""
        m, c = len(points), len(self.cells)
        mu, gradient = law(self.mean[:7], points)
        between, spare = self._carry(points)
        maps = np.zeros((2 * m + 1 + c, len(self.mean)))
        maps[:m, :7], maps[:m, HEAD : HEAD + c] = gradient, between
        maps[m : 2 * m, 7:10] = np.column_stack([np.ones(m), points[:, :2]])
        same = np.all(np.abs(points[:, None] - self.cells[None]) < 1e-9, axis=2)
        maps[m : 2 * m, HEAD + c : HEAD + 2 * c] = same
        maps[2 * m, 10] = 1
        maps[2 * m + 1 :, HEAD + 2 * c :] = np.eye(c)
        mean = maps @ self.mean
        mean[:m] = mu + between @ self.mean[HEAD : HEAD + c]
        cov = maps @ self.cov @ maps.T
        cov[:m, :m] += spare
        cov[range(m, 2 * m), range(m, 2 * m)] += SCATTER**2 * ~same.any(axis=1)
        return mean, cov

    def _carry(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Regression of eps at `points` on eps of the cells with runs, and the covariance it
        leaves."""
        own = kernel(points, points, self.discrepancy, self.prior)
        if not len(self.cells):
            return np.zeros((len(points), 0)), own
        cross = kernel(points, self.cells, self.discrepancy, self.prior)
        inner = kernel(self.cells, self.cells, self.discrepancy, self.prior)
        between = np.linalg.solve(inner + 1e-9 * np.eye(len(inner)), cross.T).T
        return between, own - between @ cross.T


def kernel(left: np.ndarray, right: np.ndarray, sd: float, prior: Prior) -> np.ndarray:
    """Covariance of what the law leaves unexplained. Exponential: rough, so that near cells inform each other without
    deciding for each other; a random walk in n from the target, in the prior's proportion to it; and what a valley's
    form misses, each cell's own."""
    distance = np.sqrt((((left[:, None] - right[None]) / np.array(prior.reach)) ** 2).sum(axis=2))
    n, m = left[:, None, 0], right[None, :, 0]
    walk = np.where(n * m > 0, np.minimum(np.abs(n), np.abs(m)), 0.0)
    alike = sd**2 * (np.exp(-distance) + (prior.drift / prior.discrepancy) ** 2 * walk)
    return alike + prior.form**2 * (distance < 1e-8)
