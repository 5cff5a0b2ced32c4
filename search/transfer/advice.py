"""From the fitted law to a recommendation: the lr that loses least on average, intervals,
reasons."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from scaling.batchlaw import NAMES, valley
from scaling.posterior import Posterior, Runs
from search.evidence.answers import nothing
from search.records import Recommendation
from search.transfer.belief import Belief

VAGUE = 1.0  # an sd of ln lr above which there is no recommendation: the prior alone knows as much
FAR = math.log(100.0)  # extrapolation in N beyond which it is said


def advise(belief: Belief) -> Recommendation:
    """The recommendation that the history supports; its lr is None where the law refuses."""
    history, posterior, runs = belief.history, belief.posterior, belief.runs
    stable = max((t.lr for t in history.finished), default=None)
    used = tuple(t.id for t in history if t.status in ("finished", "diverged"))
    mean, sd = posterior.predict(*belief.target)
    if not history.finished:
        return nothing(history)
    if refusals := refuse(posterior, runs):
        return Recommendation(lr=None, max_stable_lr=stable, reasons=tuple(refusals), trials=used)
    k, h = posterior.k, float(np.exp(posterior.mean[7]))
    # The valley is Linex: the expected loss is least a shade below the mean, and is h Var there.
    log_lr = mean - k * sd**2 / 2
    freedom = 8 + len(posterior.cells)  # as many cells as the discrepancy's estimate rests on
    half, most = (sd * float(student.ppf(q, freedom)) for q in (0.75, 0.95))
    ends = valley(log_lr - np.array([mean - most, mean + most]), k)[0]
    largest = max(history.finished, key=lambda t: t.run.tokens * math.exp(belief.size(t)))
    loss = min(t.loss for t in history.finished if t.run.model == largest.run.model and t.loss)
    return Recommendation(
        lr=math.exp(log_lr),
        interval50=(math.exp(mean - half), math.exp(mean + half)),
        interval90=(math.exp(mean - most), math.exp(mean + most)),
        max_stable_lr=stable,
        expected_regret=h * sd**2 * loss,
        worst_regret=h * float(ends.max()) * loss,
        batch=belief.batch if belief.joint else None,
        law=describe(posterior),
        reasons=tuple(doubts(posterior, runs)),
        trials=used,
        details={
            "log_lr": mean,
            "sd": sd,
            "law": dict(zip(NAMES, posterior.mean[:7].tolist(), strict=True)),
            "law_sd": dict(zip(NAMES, np.sqrt(np.diag(posterior.cov)[:7]).tolist(), strict=True)),
            "curvature": h,
            "skewness": k,
            "noise": posterior.noise,
            "discrepancy": posterior.discrepancy,
        },
    )


def describe(posterior: Posterior) -> str:
    """The law in one line."""
    a, _, delta, p1, q1, p2, q2 = posterior.mean[:7]
    share = 1 / (1 + math.exp(4 * delta))
    p, q = share * p1 + (1 - share) * p2, share * q1 + (1 - share) * q2
    branch = "noise-limited" if share > 0.5 else "curvature-limited"
    return f"batch-conditional law, {branch} here: lr* ~ N^{-a:+.2f} D^{q:+.2f} B^{p:+.2f} near the target"


def refuse(posterior: Posterior, runs: Runs) -> list[str]:
    """Why no lr can be recommended, one sentence each; empty: it can."""
    finite = np.isfinite(runs.loss)
    same = np.all(
        np.abs(posterior.cells[:, None] - np.column_stack([runs.n, runs.d, runs.b])[None]) < 1e-8,
        axis=2,
    )
    if (same & finite).sum(axis=1).max() < 2:
        return ["No proxy has finished at two lrs, so no valley is seen."]
    _, sd = posterior.predict()
    if sd > VAGUE:
        return [f"The best lr is known only to a factor of {math.exp(sd):.1f} (one sd): run more trials."]
    return []


def doubts(posterior: Posterior, runs: Runs) -> list[str]:
    """What speaks against the answer, one sentence each."""
    found = []
    finite = np.isfinite(runs.loss)
    sizes = np.unique(np.round(runs.n[finite], 6))
    if len(sizes) == 1 and abs(sizes[0]) > 1e-6:
        found.append("Only one size was run: how lr* moves with N is taken from published laws.")
    if -sizes.max() > FAR:
        found.append(f"The target has {math.exp(-sizes.max()):.0f} times the parameters of the largest proxy.")
    if posterior.mean[0] < -2 * math.sqrt(posterior.cov[0, 0]):
        found.append("lr* rises with N here, against all published evidence.")
    open_cells = _edges(posterior, runs)
    if open_cells:
        found.append(
            f"In {open_cells} of {len(posterior.cells)} cells the best lr seems to lie outside those that finished."
        )
    return found


def _edges(posterior: Posterior, runs: Runs) -> int:
    """Cells whose fitted optimum lies outside the lrs that finished there."""
    points, finite = np.column_stack([runs.n, runs.d, runs.b]), np.isfinite(runs.loss)
    mu, count = posterior.at(posterior.cells)[0], 0
    for cell, best in zip(posterior.cells, mu, strict=False):
        x = runs.log_lr[finite & np.all(np.abs(points - cell) < 1e-8, axis=1)]
        count += len(x) > 0 and not x.min() <= best <= x.max()
    return count
