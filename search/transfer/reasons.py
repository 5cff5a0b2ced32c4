"""Why a history answers nothing, what speaks against what it answers, and where the lr is held to what was tried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scaling.batchlaw import law
from scaling.hierarchy import explained
from scaling.posterior import Posterior, Runs
from search.records import point
from search.transfer.belief import Belief

VAGUE = 1.0  # an sd of ln lr above which there is no recommendation: the prior alone knows as much
FAR = math.log(16.0)  # extrapolation in N or D beyond which it is said
EXPLAINED = 0.75  # share of what differs inside cells that valleys must explain: noise reached 0.7, real tables 0.88
CHANCE = 2e-5  # or, where there is much noise and many runs, the likelihood of as much from noise; small, for runs are
# chosen where noise was kind, and the test does not know that
NOISY = 0.02  # of the loss: seeds scatter by less (1.6 % at 300 steps of the smallest models), valleys by more
EVIDENCE = 6  # runs beyond the first of each cell, from which that can be told
SAME_EDGE = 0.8  # of the cells: where more are, nobody knows how far away the optimum is
ENOUGH = 3  # bracketed valleys, from which a law may be followed beyond the lrs that were tried
SAME = 0.02  # ln lr: closer than that, two lrs are one
WIDER = 4.0  # factor by which another search should reach further


@dataclass(frozen=True)
class Seen:
    """One cell: what was tried there, in ln lr, and where the fit has its optimum."""

    at: np.ndarray
    """(n, d, b) relative to the target."""
    finished: np.ndarray
    diverged: np.ndarray
    best: float
    """Of the lowest loss."""
    mu: float

    @property
    def lrs(self) -> int:
        return len(np.unique(np.round(self.finished, 2)))

    @property
    def bracketed(self) -> bool:
        """Something worse on either side of the best; a divergence counts above."""
        above = max([*self.finished, *self.diverged])
        return min(self.finished) + 0.01 < self.best < above - 0.01

    @property
    def end(self) -> Literal["low", "high"] | None:
        """At which end of those tried the best is; two lrs at least."""
        if self.bracketed or self.lrs < 2:
            return None
        return "low" if self.best <= min(self.finished) + 0.01 else "high"

    @property
    def edge(self) -> Literal["low", "high"] | None:
        """The same, where the fitted optimum is beyond that end."""
        beyond = self.mu < min(self.finished) if self.end == "low" else self.mu > max(self.finished)
        return self.end if beyond else None


def seen(posterior: Posterior, runs: Runs) -> list[Seen]:
    """The cells in which something finished."""
    points, finite = runs.points, np.isfinite(runs.loss)
    mu, found = posterior.at(posterior.cells)[0], list[Seen]()
    for cell, at in zip(posterior.cells, mu, strict=False):
        mine = np.all(np.abs(points - cell) < 1e-8, axis=1)
        x, y = runs.log_lr[mine & finite], runs.loss[mine & finite]
        if len(x):
            found.append(Seen(cell, x, runs.log_lr[mine & ~finite], float(x[y.argmin()]), float(at)))
    return found


def refuse(belief: Belief, cells: list[Seen]) -> list[str]:
    """Why no lr can be recommended and what would help, one sentence each; empty: it can."""
    if max((cell.lrs for cell in cells), default=0) < 2:
        return ["No run has finished at two lrs, so no valley is seen: try two more, a factor of 2 either way."]
    if edge := _edge(cells):
        return [edge]
    posterior = belief.posterior
    told = explained(posterior, belief.runs)
    seen_one = told.share >= EXPLAINED or told.chance <= CHANCE or told.spread > NOISY
    if told.spare >= EVIDENCE and not seen_one:
        return [
            f"No valley is seen: one explains {max(told.share, 0):.0%} of how losses differ between lrs, and noise "
            f"alone ({posterior.noise:.2%} of the loss) could. More seeds, longer runs or lrs further apart would help."
        ]
    _, sd = posterior.predict(*belief.target)
    if sd > VAGUE:
        return [f"The best lr is known only to a factor of {math.exp(sd):.1f} (one sd): run more trials."]
    return []


def _edge(cells: list[Seen]) -> str:
    """That nearly every cell is at the same end of what was tried; empty: it is not so."""
    several = [cell for cell in cells if cell.lrs > 1]
    for side, way in (("low", "below"), ("high", "above")):
        at = [cell for cell in several if cell.edge == side]
        if len(at) <= SAME_EDGE * len(several):
            continue
        nearest = min(at, key=lambda cell: float(np.abs(cell.at).sum()))
        last, verb = math.exp(nearest.best), "down" if side == "low" else "up"
        further = last / WIDER if side == "low" else last * WIDER
        return (
            f"lr* is {way} {last:.2g}: in {len(at)} of {len(several)} cells the loss still falls at the {side}est lr "
            f"tried, and nobody knows how far. Try {verb} to {further:.1g}, by --lr-range or a larger budget."
        )
    return ""


def doubts(belief: Belief, cells: list[Seen]) -> list[str]:
    """What speaks against the answer, one sentence each, the gravest first."""
    return [*_slope(belief), *_far(belief), *_carried(belief), *_open(cells)]


def _slope(belief: Belief) -> list[str]:
    """A law that is not like any other."""
    p, mean = belief.prior, belief.posterior.mean[0]
    off = (mean - p.mean[0]) / p.sd[0]
    if abs(off) < 2:
        return []
    moves = f"lr* rises with N here (N^{-mean:+.2f})" if mean < 0 else f"lr* falls as N^{-mean:+.2f} here"
    return [
        f"AGAINST ALL EVIDENCE: {moves}, where published families have N^{-p.mean[0]:+.2f} +- {p.sd[0]:.2f}. Is N the "
        "same kind of parameters in every run, and do the runs differ in nothing else?"
    ]


def _far(belief: Belief) -> list[str]:
    found, points = [], belief.runs.points[np.isfinite(belief.runs.loss)]
    for axis, what in ((0, "parameters"), (1, "tokens")):
        nearest = points[np.abs(points[:, axis]).argmin(), axis]
        if abs(nearest) > FAR:
            found.append(
                f"The target has {math.exp(-nearest):.3g} times the {what} of the nearest run: no law is sure beyond a "
                "factor of 16."
            )
    return found


def _carried(belief: Belief) -> list[str]:
    """What one size, one horizon or one batch leaves to published laws, and how far these carry the answer."""
    found, points = [], belief.runs.points[np.isfinite(belief.runs.loss)]
    share, sd = float(law(belief.prior.mean, np.zeros((1, 3)))[1][0, 2]), belief.prior.sd
    in_d, in_b = (math.hypot(share * sd[i], (1 - share) * sd[i + 2]) for i in (4, 3))
    for axis, (what, letter, doubt) in enumerate((("size", "N", sd[0]), ("horizon", "D", in_d), ("batch", "B", in_b))):
        values = np.unique(np.round(points[:, axis], 6))
        away = float(belief.target[axis] - values[0])
        if len(values) == 1 and abs(away) > 1e-6:
            found.append(
                f"Only one {what} was run: how lr* moves with {letter} is taken from published laws, over a factor of "
                f"{math.exp(abs(away)):.3g}; that alone leaves a factor of {math.exp(doubt * abs(away)):.2f} "
                "(one sd)."
            )
    return found


def _open(cells: list[Seen]) -> list[str]:
    """That valleys are half seen, where there are not enough whole ones to go by."""
    whole, several = sum(cell.bracketed for cell in cells), [cell for cell in cells if cell.lrs > 1]
    ends = sum(cell.end is not None for cell in several)
    if whole >= ENOUGH or not ends:
        return []
    return [
        f"In {ends} of {len(several)} cells the best lr is the last one tried on its side: fewer than {ENOUGH} valleys "
        "are bracketed, and the rest is from published laws."
    ]


def held(belief: Belief, cells: list[Seen], log_lr: float) -> tuple[float, list[str]]:
    """(ln lr inside what was tried near the target, why it was moved).

    A law of ENOUGH bracketed valleys may be followed beyond that. Near: the largest size at which two lrs finished.
    """
    if sum(cell.bracketed for cell in cells) >= ENOUGH:
        return log_lr, []
    several = [cell for cell in cells if cell.lrs > 1]
    size = max(cell.at[0] for cell in several)
    near = [cell for cell in several if cell.at[0] > size - 1e-6]
    low, high = min(min(c.finished) for c in near), max(max(c.finished) for c in near)
    if len(several) > 1 and all(cell.end == "low" for cell in several):  # what lies below nobody has seen: not above
        high = max(cell.best for cell in near)
    moved = min(max(log_lr, low), high)
    if moved == log_lr:
        return log_lr, []
    way = "down" if moved < log_lr else "up"
    return moved, [
        f"The law alone says {math.exp(log_lr):.3g}; with fewer than {ENOUGH} bracketed valleys the answer is held "
        f"{way} to what was tried at the size nearest to the target."
    ]


def not_the_best_tried(belief: Belief, log_lr: float, shade: float) -> list[str]:
    """Why the answer is not simply the lr of the lowest loss. `shade`: by how much it is below the law's mean."""
    finished = [t for t in belief.history.finished if "setting" not in t.tags]
    size = max(belief.size(t) for t in finished)
    near = [t for t in finished if belief.size(t) > size - 1e-9]
    horizon = max(t.run.tokens for t in near)
    best = min((t for t in near if t.run.tokens == horizon), key=lambda t: t.loss or math.inf)
    if abs(math.log(best.lr) - log_lr) < SAME:
        return []
    n, d, b = np.array(point(best.run)) - belief.origin
    there = belief.posterior.predict(n, d, b)[0]
    moved = math.exp(belief.posterior.predict(*belief.target)[0] - there)
    return [
        f"Not simply {best.lr:.3g}, the best lr tried at the largest size and horizon: the valley fitted there has its "
        f"floor at {math.exp(there):.3g}, the law moves it by a factor of {moved:.2f} to the target, and {shade:.0%} "
        "are taken off because too high an lr costs more than too low a one."
    ]
