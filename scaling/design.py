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
    ) -> None:
        """`cells` (m, 3) and `target` (3,) in n, d, b; `costs` (m,) of one run in each, in any
        unit.

        `step` is the least spacing of a bracket; `doubt` (m,) the sd of a loss beyond the noise, as
        a fraction. `begun`: by cell, (ln lr, cost) of runs that would go on from a checkpoint.
        """
        self.posterior, self.m, self.costs, self.step = posterior, len(cells), costs, step
        self.doubt, self.begun = np.broadcast_to(doubt, self.m), dict(begun or {})
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
        return float(self.cov[self.target, self.target])

    def runs(self, cell: int, log_lr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(Jacobian (r, latents), noise variance (r,)) of runs in a candidate cell at these lrs.

        Heights are averaged over what is not known of the cell's optimum: far from it a run says
        little.
        """
        k, h = self.posterior.k, float(np.exp(self.mean[self.m + 1 + cell]))
        unknown = np.sqrt(max(self.cov[cell, cell], 0.0))
        z = log_lr - self.mean[cell]
        spread = z[:, None] + unknown * np.array([-1.2, 0.0, 1.2])
        height = np.minimum(h * valley(spread, k)[0], 4 * CAP).mean(axis=1)
        phi, slope, by_k = valley(z, k)
        out = np.zeros((len(log_lr), len(self.cov)))
        out[:, cell], out[:, self.m + 1 + cell], out[:, self.at_k] = -h * slope, h * phi, h * by_k
        out[:, self.floors[cell]] = 1
        return out, self.posterior.noise**2 + self.doubt[cell] ** 2 + (MISFIT * height) ** 2

    def _after(self, cell: int, log_lr: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        jacobian, noise = self.runs(cell, log_lr)
        columns = self.cov @ jacobian.T
        inner = jacobian @ columns + np.diag(noise)
        gain = np.linalg.solve(inner, columns[self.target])
        return float(columns[self.target] @ gain), columns, inner

    def assume(self, cell: int, log_lr: np.ndarray) -> None:
        """Reckon with runs at these lrs (r,): they are under way, or chosen."""
        _, columns, inner = self._after(cell, log_lr)
        self.cov = self.cov - columns @ np.linalg.solve(inner, columns.T)
        self.touched[cell] = True

    def choose(self, limit: float, low: float, high: float) -> Choice | None:
        """The runs with most variance removed per cost, among brackets of new cells and further
        runs of begun ones.

        None when none costs at most `limit`; lrs lie between `low` and `high` (ln).
        """
        best: tuple[float, float, float, int, np.ndarray] | None = None
        for cell in range(self.m):
            for log_lr, cost in self._offers(cell, low, high):
                if cost > limit or len(np.unique(log_lr)) < len(log_lr):
                    continue
                saved = self._after(cell, log_lr)[0]
                if best is None or saved / cost > best[0]:
                    best = (saved / cost, saved, cost, cell, log_lr)
        if best is None:
            return None
        _, saved, cost, cell, log_lr = best
        self.assume(cell, log_lr)
        gone_on = set(log_lr.tolist())
        self.begun[cell] = [b for b in self.begun.get(cell, ()) if b[0] not in gone_on]
        return Choice(cell, tuple(log_lr.tolist()), cost, self.variance, saved)

    def _offers(self, cell: int, low: float, high: float) -> Iterator[tuple[np.ndarray, float]]:
        """(ln lrs, cost) of what may be run in a cell."""
        for offsets in self._offsets(cell):
            centre = np.clip(self.mean[cell], low + offsets[-1], high + offsets[0])
            log_lr = np.clip((self.mean[cell] if len(offsets) == 1 else centre) + offsets, low, high)
            yield log_lr, float(len(log_lr) * self.costs[cell])
        near = [b for b in self.begun.get(cell, ()) if abs(b[0] - self.mean[cell]) <= 1.5 * self.step]
        for group in [[b] for b in near] + ([near] if len(near) > 1 else []):
            yield np.array([log_lr for log_lr, _ in group]), sum(cost for _, cost in group)

    def _offsets(self, cell: int) -> list[np.ndarray]:
        """A first bracket is as wide as the doubt about the cell's optimum, within bounds; then
        single lrs."""
        if self.touched[cell]:
            return [np.array([s * self.step]) for s in (-1.5, -1, 0, 1, 1.5)]
        wide = float(np.clip(np.sqrt(self.cov[cell, cell]), self.step, 1.5 * self.step))
        return [np.array([-wide, wide]), np.array([-wide, 0.0, wide])]
