"""The best batch over N and D, by the same model: its "runs" are the floors of the lr valleys.

floor_c = best_(N, D) (1 + exp(eta) phi_k(ln B_c - ln B*(N, D)))     ln B* = c + q d - a n
"""

from __future__ import annotations

import numpy as np

from scaling.batchlaw import Prior
from scaling.hierarchy import fit
from scaling.posterior import HEAD, Posterior, Runs

STEP = float(np.log(4.0))
"""Spacing of batches: the loss is so flat in ln B that a factor of 2 drowns in noise (a factor of 4
around the best wastes
about 5 % of compute, arXiv 2607.01487)."""


def batch_prior(d: float, noise: float) -> Prior:
    """What is believed of the best batch (tokens) of a target of `d` tokens.

    Centre: Step Law's 0.58 D^0.571 (2503.04715); Power Lines (2505.13738) has D^0.38, DeepSeek
    (2401.02954) C^0.33, and 2607.01487 D^0.57; none of them finds much of N.
    """
    fixed = 1e-3  # the law's other branch and its batch terms are switched off
    return Prior(
        mean=np.array([0.0, np.log(0.58) + 0.571 * np.log(d), 30.0, 0.0, 0.0, 0.0, 0.5]),
        sd=np.array([0.2, 1.0, fixed, fixed, fixed, fixed, 0.15]),
        valley_mean=np.array([np.log(0.002), 0.0, 0.0, np.log(0.3)]),
        valley_sd=np.array([0.8, 0.2, 0.2, 0.5]),
        discrepancy=0.3,
        reach=(1.5, 1.5, 1.5),
        drift=0.0,
        noise=noise,
    )


def fit_batches(lr_fit: Posterior, runs: Runs, origin: np.ndarray) -> Posterior:
    """The posterior of ln B* from the floors of the cells behind `lr_fit`; `origin` is (ln N, ln D,
    ln B) of the target."""
    cells, c = lr_fit.cells, len(lr_fit.cells)
    points = runs.points
    lowest = np.array([_lowest(points, runs.loss, cell) for cell in cells])
    alive = np.isfinite(lowest)
    floors = slice(HEAD + 2 * c, HEAD + 3 * c)
    level, doubt = lr_fit.mean[floors][alive], np.sqrt(np.diag(lr_fit.cov)[floors][alive])
    seen = Runs(
        n=cells[alive, 0],
        d=cells[alive, 1],
        b=np.zeros(alive.sum()),
        log_lr=cells[alive, 2] + origin[2],
        loss=lowest[alive] * (1 + level),
        doubt=doubt,
    )
    return fit(seen, batch_prior(float(np.exp(origin[1])), lr_fit.noise))


def _lowest(points: np.ndarray, loss: np.ndarray, cell: np.ndarray) -> float:
    return float(loss[np.all(np.abs(points - cell) < 1e-8, axis=1)].min())
