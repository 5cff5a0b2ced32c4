"""Which runs to make next: cost-constrained c-optimal design on ln lr* at the target.

The expected loss given up at the target is h Var[ln lr*] (scaling.batchlaw.valley), and the
variance after further runs does not depend on how they will end, to first order. So runs are chosen
greedily by variance removed per cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scaling.batchlaw import valley
from scaling.hierarchy import CAP, LOOSE, MISFIT
from scaling.posterior import Posterior

STEP = float(np.log(2.0))
"""Spacing of a bracket: three lrs a factor of 2 apart find a valley's floor with sd 0.1 log2 at no
bias; wider ones
are pulled by the wall, closer ones drown in noise."""


AROUND = np.array([-1.5, -1.0, 0.0, 1.0, 1.5])
"""Where a begun cell may have its next run: steps from the optimum."""


@dataclass(frozen=True)
class Choice:
    """Runs to make at one candidate cell."""

    cell: int
    """Index into the candidates."""
    log_lr: tuple[float, ...]
    cost: float
    variance: float
    """Of ln lr* at the target, once these and the choices before them have ended."""
    saved: float
    """Variance removed."""


class Design:
    """The posterior over candidate cells and the target, updated as runs are chosen; not kept
    between decisions."""

    def __init__(
        self,
        posterior: Posterior,
        cells: np.ndarray,
        costs: np.ndarray,
        target: np.ndarray,
        step: float = STEP,
        doubt: np.ndarray | float = 0.0,
        begun: Mapping[int, Sequence[tuple[float, float]]] | None = None,
        again: Mapping[int, Sequence[float]] | None = None,
    ) -> None:
        """`cells` (m, 3) and `target` (3,) in n, d, b; `costs` (m,) of one run in each, in any
        unit.

        `step` is the least spacing of a bracket; `doubt` (m,) the sd of a loss beyond the noise, as
        a fraction. `begun`: by cell, (ln lr, cost) of runs that would go on from a checkpoint. `again`: by cell, the
        ln lrs that are to be run with a second seed before another lr is.
        """
        self.posterior, self.m, self.costs, self.step = posterior, len(cells), costs, step
        self.doubt, self.begun, self.again = np.broadcast_to(doubt, self.m), dict(begun or {}), dict(again or {})
        self.mean, self.cov = posterior.at(np.vstack([cells, target[None]]))
        width = self.m + 1
        self.at_k, self.target = 2 * width, self.m
        known = [np.flatnonzero(np.all(np.abs(posterior.cells - c) < 1e-8, axis=1)) for c in cells]
        seen = 2 * width + 1
        floors = np.array([seen + k[0] if len(k) else -1 for k in known])
        fresh = np.flatnonzero(floors < 0)
        floors[fresh] = len(self.mean) + np.arange(len(fresh))
        spare = LOOSE**2 * np.eye(len(fresh))
        corner = np.zeros((len(self.mean), len(fresh)))
        self.cov = np.block([[self.cov, corner], [corner.T, spare]])
        self.floors, self.touched = floors, np.array([len(k) > 0 for k in known])

    @property
    def variance(self) -> float:
        """Of ln lr* at the target, after all choices so far."""
        return float(self.cov[self.target, self.target]) - self.posterior.prior.form**2

    def runs(self, cells: np.ndarray, log_lr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(latents (m, 4) that runs touch, Jacobian by them (m, r, 4), noise variance (m, r)) of offers of r runs each:
        `cells` (m,), `log_lr` (m, r).

        Heights are averaged over what is not known of the cell's optimum: far from it a run says
        little.
        """
        k, h = self.posterior.k, np.exp(self.mean[self.m + 1 + cells])[:, None]
        unknown = np.sqrt(np.maximum(self.cov[cells, cells], 0.0))[:, None]
        z = log_lr - self.mean[cells][:, None]
        spread = z[..., None] + unknown[..., None] * np.array([-1.2, 0.0, 1.2])
        height = np.minimum(h[..., None] * valley(spread, k)[0], 4 * CAP).mean(axis=2)
        phi, slope, by_k = valley(z, k)
        touched = np.stack([cells, self.m + 1 + cells, np.full_like(cells, self.at_k), self.floors[cells]], axis=1)
        jacobian = np.stack([-h * slope, h * phi, h * by_k, np.ones_like(z)], axis=2)
        return touched, jacobian, self.posterior.noise**2 + self.doubt[cells][:, None] ** 2 + (MISFIT * height) ** 2

    def _saved(self, cells: np.ndarray, log_lr: np.ndarray) -> np.ndarray:
        """(m,) variance at the target that each offer would remove."""
        touched, jacobian, noise = self.runs(cells, log_lr)
        near = self.cov[touched[:, :, None], touched[:, None, :]]
        inner = jacobian @ near @ jacobian.transpose(0, 2, 1) + noise[:, :, None] * np.eye(log_lr.shape[1])
        told = jacobian @ self.cov[touched, self.target][..., None]
        return (told * np.linalg.solve(inner, told)).sum(axis=(1, 2))

    def assume(self, cell: int, log_lr: np.ndarray) -> None:
        """Reckon with runs at these lrs (r,): they are under way, or chosen."""
        touched, jacobian, noise = (v[0] for v in self.runs(np.array([cell]), log_lr[None]))
        columns = self.cov[:, touched] @ jacobian.T
        inner = jacobian @ columns[touched] + np.diag(noise)
        self.cov = self.cov - columns @ np.linalg.solve(inner, columns.T)
        self.touched[cell] = True
        self.again.pop(cell, None)

    def choose(self, limit: float, low: np.ndarray | float, high: np.ndarray | float) -> Choice | None:
        """The runs with most variance removed per cost, among brackets of new cells and further
        runs of begun ones.

        None when none costs at most `limit`; lrs lie between `low` and `high` (ln), of all cells or (m,) of each.
        """
        best: tuple[float, float, float, int, np.ndarray] | None = None
        low, high = np.broadcast_to(low, self.m), np.broadcast_to(high, self.m)
        for cells, log_lr, cost in self._offers(low, high):
            fits = (cost <= limit) & (np.diff(log_lr, axis=1) > 0).all(axis=1)
            if not fits.any():
                continue
            cells, log_lr, cost = cells[fits], log_lr[fits], cost[fits]
            saved = self._saved(cells, log_lr)
            i = int(np.argmax(saved / cost))
            if best is None or saved[i] / cost[i] > best[0]:
                best = (float(saved[i] / cost[i]), float(saved[i]), float(cost[i]), int(cells[i]), log_lr[i])
        if best is None:
            return None
        _, saved, cost, cell, log_lr = best
        self.assume(cell, log_lr)
        gone_on = set(log_lr.tolist())
        self.begun[cell] = [b for b in self.begun.get(cell, ()) if b[0] not in gone_on]
        return Choice(cell, tuple(log_lr.tolist()), cost, self.variance, saved)

    def _offers(self, low: np.ndarray, high: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(cells (m,), ln lrs (m, r), costs (m,)) of what may be run, grouped by how many runs r an offer has."""
        fresh = np.flatnonzero(~self.touched)
        wide = np.clip(np.sqrt(np.maximum(self.cov[fresh, fresh], 0.0)), self.step, 1.5 * self.step)
        centre = np.maximum(np.minimum(self.mean[fresh], high[fresh] - wide), low[fresh] + wide)
        for sides in (
            (-1.0, 1.0),
            (-1.0, 0.0, 1.0),
        ):  # a first bracket is as wide as the doubt about the cell's optimum
            log_lr = centre[:, None] + wide[:, None] * np.array(sides)
            yield fresh, log_lr.clip(low[fresh, None], high[fresh, None]), len(sides) * self.costs[fresh]
        single = [(c, v) for c in np.flatnonzero(self.touched) for v in self._further(int(c))]
        if single:
            cells = np.array([c for c, _ in single])
            log_lr = np.array([[v] for _, v in single]).clip(low[cells, None], high[cells, None])
            yield cells, log_lr, self.costs[cells]
        for cell in range(self.m):
            near = [b for b in self.begun.get(cell, ()) if abs(b[0] - self.mean[cell]) <= 1.5 * self.step]
            for group in [[b] for b in near] + ([near] if len(near) > 1 else []):
                yield np.array([cell]), np.array([[v for v, _ in group]]), np.array([sum(cost for _, cost in group)])

    def _further(self, cell: int) -> Sequence[float]:
        """Single lrs about the optimum; where the valley drowns in noise, those tried, with another seed."""
        return self.again.get(cell) or (self.mean[cell] + AROUND * self.step).tolist()
