"""Fits the batch-conditional law straight to the losses of runs: MAP with a Laplace covariance.

    loss_i / floor_c = 1 + l_c + exp(eta_c) phi_k(ln lr_i - mu_c) + noise
    mu_c  = law(theta; n_c, d_c, b_c) + eps_c
    eta_c = h0 + hN n_c + hD d_c + zeta_c

Run i lies in cell c = (N, D, B). eps: what the law leaves unexplained, alike in near cells; eta: ln
of the valley's curvature over the loss; l: the cell's floor against its lowest run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from scaling.batchlaw import Prior, law, valley
from scaling.posterior import HEAD, SCATTER, Posterior, Runs, kernel

MISFIT = 0.1  # of a height above the floor: how far a Linex valley may be from the true one
CAP = 0.12  # heights above this are only known to be above it: walls have any shape
PLATEAU = 0.07  # a run foretold to be higher may be on a plateau, as small models have: no witness for or against
LOOSE = 0.05  # prior sd of a cell's floor against its lowest run
TAIL = 4.0  # degrees of freedom of the noise
DISCREPANCY_SD = 1.0  # of ln of the discrepancy, a priori
DISCREPANCIES = np.linspace(-2.0, 1.0, 16)  # ln of what is tried, over the prior's


@dataclass
class _Data:
    """Runs by cell, losses as heights over the cell's lowest."""

    cells: np.ndarray
    cell: np.ndarray
    x: np.ndarray
    y: np.ndarray
    censored: np.ndarray
    doubt: np.ndarray | float

    def variance(self, noise: float) -> np.ndarray:
        """Of a run's relative loss around the model: of the height it was seen at, so that no fit can buy variance."""
        capped = np.where(self.censored, 2 * CAP, self.y)
        return noise**2 + self.doubt**2 + (MISFIT * capped) ** 2


def _data(runs: Runs) -> _Data:
    points = runs.points
    cells, cell = np.unique(np.round(points, 9), axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    lowest = np.full(len(cells), np.inf)
    np.minimum.at(lowest, cell, runs.loss)
    floor = np.where(np.isfinite(lowest), lowest, 1.0)
    y = runs.loss / floor[cell] - 1
    censored = ~(y < CAP)
    return _Data(cells, cell, runs.log_lr, np.where(censored, CAP, y), censored, runs.doubt)


def fit(runs: Runs, prior: Prior, rounds: int = 3) -> Posterior:
    """MAP of all latents with its Laplace covariance; noise by EM, discrepancy by evidence."""
    data = _data(runs)
    c = len(data.cells)
    mean = np.concatenate([prior.mean, prior.valley_mean, np.zeros(3 * c)])
    state = Posterior(prior, data.cells, mean, np.zeros((0, 0)), prior.noise, prior.discrepancy, len(runs))
    if not len(runs):
        return replace(state, cov=np.linalg.inv(_precision(state, mean)))
    best = data.x[~data.censored & (data.y == 0)]
    if len(best):
        at = data.cell[~data.censored & (data.y == 0)]
        state.mean[1] += np.median(best - law(prior.mean, data.cells)[0][at])
    for _ in range(rounds):
        state = _climb(state, data)
        state = _scales(state, data)
    return state


def _precision(state: Posterior, z: np.ndarray) -> np.ndarray:
    """Of the prior at the latents z; only the law's own part depends on them."""
    c, p = len(state.cells), state.prior
    out = np.zeros((HEAD + 3 * c, HEAD + 3 * c))
    head = np.concatenate([p.precision(z[:7]), p.valley_sd**-2.0])
    out[range(HEAD), range(HEAD)] = head
    if c:
        k = kernel(state.cells, state.cells, state.discrepancy, p)
        out[HEAD : HEAD + c, HEAD : HEAD + c] = np.linalg.inv(k + 1e-9 * np.eye(c))
        tail = np.concatenate([np.full(c, SCATTER**-2), np.full(c, LOOSE**-2)])
        out[range(HEAD + c, HEAD + 3 * c), range(HEAD + c, HEAD + 3 * c)] = tail
    return out


def _model(z: np.ndarray, data: _Data, gradient: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, Jacobian) of every run; censored ones predict their height alone."""
    c = len(data.cells)
    mu, by_theta = law(z[:7], data.cells)
    eta = z[7] + data.cells[:, 0] * z[8] + data.cells[:, 1] * z[9] + z[HEAD + c : HEAD + 2 * c]
    phi, slope, by_k = valley(data.x - (mu + z[HEAD : HEAD + c])[data.cell], float(np.exp(z[10])))
    h = np.exp(eta)[data.cell]
    height, rows = h * phi, np.arange(len(data.x))
    predicted = height + np.where(data.censored, 0, z[HEAD + 2 * c + data.cell])
    if not gradient:
        return predicted, np.zeros(0)
    out = np.zeros((len(rows), len(z)))
    by_mu = -h * slope
    out[:, :7] = by_mu[:, None] * by_theta[data.cell]
    out[:, 7], out[:, 8], out[:, 9] = (
        height,
        height * data.cells[data.cell, 0],
        height * data.cells[data.cell, 1],
    )
    out[:, 10] = h * by_k
    out[rows, HEAD + data.cell] = by_mu
    out[rows, HEAD + c + data.cell] = height
    out[rows, HEAD + 2 * c + data.cell] = ~data.censored
    return predicted, out


def _weights(state: Posterior, data: _Data, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(residual, weight, Jacobian) at z; a censored run that is predicted above the cap weighs
    nothing."""
    predicted, jacobian = _model(z, data)
    residual, variance = data.y - predicted, data.variance(state.noise)
    weight = (TAIL + 1) / (TAIL + residual**2 / variance) / variance
    return residual, np.where(data.censored & (residual < 0), 0, weight), jacobian


def _climb(state: Posterior, data: _Data, steps: int = 40) -> Posterior:
    """Levenberg-Marquardt on the reweighted squares."""
    from scipy.linalg import cho_factor, cho_solve  # 0.3 s of import, that no --help needs

    p, z, damping = state.prior, state.mean, 1e-3
    fixed, variance = _precision(state, z), data.variance(state.noise)
    centre = np.concatenate([p.mean, p.valley_mean, np.zeros(len(z) - HEAD)])

    def precision(at: np.ndarray) -> np.ndarray:
        fixed[range(7), range(7)] = p.precision(at[:7])
        return fixed

    def objective(at: np.ndarray) -> float:
        r = data.y - _model(at, data, gradient=False)[0]
        fits = (TAIL + 1) * np.log1p(r**2 / variance / TAIL)
        rest = (at - centre)[7:]
        believed = p.penalty(at[:7]) + rest @ fixed[7:, 7:] @ rest
        return float(np.where(data.censored & (r < 0), 0, fits).sum() + believed)

    value = objective(z)
    for _ in range(steps):
        residual, weight, jacobian = _weights(state, data, z)
        pull = precision(z)
        normal = jacobian.T @ (weight[:, None] * jacobian) + pull
        gradient = jacobian.T @ (weight * residual) - pull @ (z - centre)
        while damping < 1e6:
            step = cho_solve(cho_factor(normal + damping * np.diag(np.diag(normal))), gradient)
            trial = objective(z + step)
            if trial <= value:
                break
            damping *= 5
        else:
            break
        z, gain, value, damping = z + step, value - trial, trial, damping / 5
        if gain < 1e-4:
            break
    residual, weight, jacobian = _weights(state, data, z)
    cov = np.linalg.inv(jacobian.T @ (weight[:, None] * jacobian) + precision(z))
    return replace(state, mean=z, cov=cov)


def _scales(state: Posterior, data: _Data) -> Posterior:
    """Noise given the latents, its prior counting as 4 runs; discrepancy by evidence."""
    residual, weight, jacobian = _weights(state, data, state.mean)
    share = np.where(data.censored, 0, weight * state.noise**2)
    leverage = np.clip(weight * np.einsum("ip,pq,iq->i", jacobian, state.cov, jacobian), 0, 1)
    noise = (4 * state.prior.noise**2 + share @ residual**2) / (4 + share @ (1 - leverage))
    pull = jacobian.T @ (weight * residual)
    return replace(state, noise=float(np.sqrt(noise)), discrepancy=_discrepancy(state, pull))


def _discrepancy(state: Posterior, pull: np.ndarray) -> float:
    """The likeliest sd of what the law leaves unexplained: its prior, log-normal, times the evidence of the runs, whose
    likelihood is taken to be normal, with the gradient `pull` at the mode."""
    p, z = state.prior, state.mean
    away = z - np.concatenate([p.mean, p.valley_mean, np.zeros(len(z) - HEAD)])
    likelihood = np.linalg.inv(state.cov) - _precision(state, z)
    found = []
    for step in DISCREPANCIES:
        prior = _precision(replace(state, discrepancy=p.discrepancy * math.exp(step)), z)
        after = prior + likelihood
        rest = pull - prior @ away
        evidence = np.linalg.slogdet(prior)[1] - np.linalg.slogdet(after)[1] - away @ prior @ away
        found.append(evidence + rest @ np.linalg.solve(after, rest) - (step / DISCREPANCY_SD) ** 2)
    return float(p.discrepancy * np.exp(DISCREPANCIES[int(np.argmax(found))]))


@dataclass(frozen=True)
class Explained:
    """How much of what differs between the runs of a cell its valley explains; censored runs are left out."""

    share: float
    """R^2 against a mean for each cell; nan: no cell has two runs."""
    chance: float
    """Of as much from noise about a flat loss: F test, with as many parameters as the fit has spent on valleys."""
    spare: int
    """Runs beyond the first of each cell."""
    spread: float
    """Sd of a cell's runs about their mean, as a fraction of the loss; runs that may be on a plateau count here."""


def explained(state: Posterior, runs: Runs) -> Explained:
    data = _data(runs)
    residual, weight, jacobian = _weights(state, data, state.mean)
    leverage = weight * np.einsum("ip,pq,iq->i", jacobian, state.cov, jacobian)
    trust, rest, whole, spent, spare = 1 / data.variance(state.noise), 0.0, 0.0, 0.0, 0
    groups = [data.y[(data.cell == c) & ~data.censored] for c in range(len(state.cells))]
    spread = math.sqrt(
        sum(float(((y - y.mean()) ** 2).sum()) for y in groups if len(y)) / max(1, sum(map(len, groups)))
    )
    near = ~data.censored & (data.y - residual < PLATEAU)
    for c in range(len(state.cells)):
        mine = (data.cell == c) & near
        if mine.sum() >= 2:
            w, y = trust[mine], data.y[mine]
            rest += float(w @ residual[mine] ** 2)
            whole += float(w @ (y - w @ y / w.sum()) ** 2)
            spent += float(leverage[mine].sum()) - 1
            spare += int(mine.sum()) - 1
    if whole <= 0:
        return Explained(math.nan, 1.0, spare, spread)
    spent, free = max(spent, 1.0), max(spare - spent, 1.0)
    from scipy.stats import f as fisher  # 0.7 s of import, that no --help needs

    ratio = max(whole - rest, 0.0) / spent / (rest / free) if rest else math.inf
    return Explained(1 - rest / whole, float(fisher.sf(ratio, spent, free)), spare, spread)
