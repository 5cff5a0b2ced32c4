"""From the fitted law to a recommendation: the lr that loses least on average, intervals,
reasons."""

from __future__ import annotations

import math

import numpy as np

from scaling.batchlaw import NAMES, valley
from scaling.posterior import Posterior
from search.evidence.answers import max_stable_lr, nothing, undiverged_lr
from search.records import Recommendation
from search.transfer.belief import Belief
from search.transfer.reasons import doubts, held, not_the_best_tried, refuse, seen

HALF, MOST = 0.75 * 0.765, 0.75 * 2.353
"""Halves of the 50 and 90 % intervals, in sd: Student's t with 3 degrees of freedom, like the prior's exponents, three
quarters as wide. Answers scatter so: half of them lie within 0.55 to 0.7 sd of the truth, and nine tenths within 1.4 to
1.8, on planted problems and on our own targets (notebooks/LOG.md, 2026-11-28); a normal's would be 0.67 and 1.64."""


def advise(belief: Belief) -> Recommendation:
    """The recommendation that the history supports; its lr is None where the law refuses."""
    history, posterior = belief.history, belief.posterior
    if not history.finished:
        return nothing(history)
    stable, undiverged = max_stable_lr(history), undiverged_lr(history)
    used = tuple(t.id for t in history if t.status in ("finished", "diverged"))
    mean, sd, shade = belief.foretold(belief.target)
    cells = seen(posterior, belief.runs)
    if refusals := refuse(belief, cells):
        return Recommendation(
            lr=None, max_stable_lr=stable, undiverged_lr=undiverged, reasons=tuple(refusals), trials=used
        )
    k, h = posterior.k, float(np.exp(posterior.mean[7]))
    log_lr, moved = held(belief, cells, mean - shade)
    half, most = HALF * sd, MOST * sd
    ends = valley(log_lr - np.array([mean - most, mean + most]), k)[0]
    why = [] if moved else not_the_best_tried(belief, log_lr, 1 - math.exp(-shade))
    largest = max(history.finished, key=lambda t: t.run.tokens * math.exp(belief.size(t)))
    loss = min(t.loss for t in history.finished if t.run.model == largest.run.model and t.loss)
    return Recommendation(
        lr=math.exp(log_lr),
        interval50=(math.exp(mean - half), math.exp(mean + half)),
        interval90=(math.exp(mean - most), math.exp(mean + most)),
        max_stable_lr=stable,
        undiverged_lr=undiverged,
        expected_regret=h * sd**2 * loss,  # of a Linex valley, at the lr of least expected loss
        worst_regret=h * float(ends.max()) * loss,
        batch=belief.batch if belief.joint else None,
        law=describe(posterior),
        reasons=(*moved, *doubts(belief, cells), *why),
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
    batch = "a larger batch allows a higher one" if share > 0.5 else "the batch hardly matters"
    return (
        f"batch-conditional law: near the target the best lr goes with N^{-a:+.2f} D^{q:+.2f} B^{p:+.2f} (parameters, "
        f"tokens, batch); {batch}"
    )
