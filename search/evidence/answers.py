"""What strategies share: from cells of trials to a recommendation."""

from __future__ import annotations

import math

from scaling.hypotheses import copy_sd
from scaling.optimum import Optimum, decide
from search.budget import Spending
from search.evidence.cells import Cell, cells
from search.records import History, Recommendation
from trainer.architecture.counts import parameters
from trainer.config import RunConfig

Z50, Z90 = 0.6745, 1.6449  # normal quantiles of the central 50 and 90 %

SAME = 0.15
"""lrs nearer than this (nats) are told apart by nobody."""
MUP_SD = 0.15  # sd a nat of N in muP and CompleteP, where lr is meant to stay put: shifts of up to x2 are reported
CUT_SHORT_SD = 0.4  # the annealed optimum can be up to 4 x the stable-phase one (arXiv 2608.28308)


def distance_sd(cell: Cell, target: RunConfig) -> float:
    """sd that copying the cell's optimum to the target adds to ln lr."""
    tokens = math.log(target.tokens / cell.horizon)
    size = math.log(parameters(target.model).non_embedding / cell.n_non_embedding)
    same = target.parametrisation == cell.run.parametrisation != "sp"
    far = math.hypot(copy_sd(0, tokens), MUP_SD * size) if same else copy_sd(size, tokens)
    return math.hypot(far, CUT_SHORT_SD if cell.cut_short else 0.0)


def recommend_from_history(history: History) -> Recommendation:
    """Copy the optimum of the cell nearest to the target: the largest model, then the longest horizon at which the
    optimum is bracketed."""
    fitted = [(cell, o) for cell in cells(history) if (o := cell.optimum()) is not None]
    bracketed = [(c, o) for c, o in fitted if o.edge is None and o.points >= 3]
    if not fitted:
        return nothing(history)
    cell, optimum = (bracketed or fitted)[-1]
    return recommend_from_cell(history, cell, optimum)


def recommend_from_cell(history: History, cell: Cell, optimum: Optimum) -> Recommendation:
    target = history.problem.target
    added = distance_sd(cell, target)
    reasons = list(optimum.reasons)
    if cell.horizon < target.tokens:
        reasons.append(
            f"measured at {cell.horizon / target.tokens:.0%} of the target's tokens; that the best lr is the same at "
            f"the full horizon is an assumption, worth a factor of {math.exp(added):.2f} either way in the interval"
        )
    if cell.run.schedule != target.schedule and not cell.cut_short:
        reasons.append(f"the trials used the schedule {cell.run.schedule}, the target will use {target.schedule}")
    if cell.cut_short:
        reasons.append("the trials' schedule was cut short, so their losses are not annealed")
    if optimum.edge is not None:
        way = "lower" if optimum.edge == "low" else "higher"
        reasons.append(f"the best lr may be {way} than any tried: widen --lr-range")
    sd = math.hypot(optimum.sd, added)
    reasons += not_simply_the_best(cell, optimum, sd)
    return recommendation(
        history,
        optimum,
        optimum.log_lr,
        sd,
        law="copied, by no law: the best lr of the longest runs that have worse lrs on both sides of it",
        reasons=reasons,
        trials=tuple(t.id for t in cell.trials),
    )


def not_simply_the_best(cell: Cell, optimum: Optimum, sd: float) -> list[str]:
    """Why the answer is not the lr of the lowest loss, where it is another one."""
    best = min((t for t in cell.trials if t.loss is not None), key=lambda t: t.loss or 0, default=None)
    decided = decide(optimum, optimum.log_lr, sd).log_lr
    if best is None or abs(math.log(best.lr) - decided) < SAME:
        return []
    shade = 1 - math.exp(decided - optimum.log_lr)
    floor = f"the valley fitted to all of them has its floor at {math.exp(optimum.log_lr):.3g}, and "
    return [
        f"not simply {best.lr:.3g}, the best tried there: {'' if optimum.edge else floor}{shade:.0%} are taken off "
        "because too high an lr costs more than too low a one, the more so the less is known"
    ]


def recommendation(
    history: History,
    valley: Optimum,
    log_lr: float,
    sd: float,
    *,
    law: str,
    reasons: list[str],
    trials: tuple[str, ...],
    rejected: tuple[tuple[str, str], ...] = (),
) -> Recommendation:
    """The lr of least expected loss when ln lr* is normal (log_lr, sd) and `valley` gives the loss around it."""
    decision = decide(valley, log_lr, sd)
    return Recommendation(
        lr=math.exp(decision.log_lr),
        interval50=(math.exp(log_lr - Z50 * sd), math.exp(log_lr + Z50 * sd)),
        interval90=(math.exp(log_lr - Z90 * sd), math.exp(log_lr + Z90 * sd)),
        max_stable_lr=max_stable_lr(history),
        undiverged_lr=undiverged_lr(history),
        expected_regret=decision.expected_regret,
        worst_regret=decision.worst_regret,
        law=law,
        rejected=rejected,
        reasons=tuple(reasons),
        trials=trials,
        details={"log_lr": log_lr, "sd": sd, "curvature": valley.curvature, "skew": valley.skew},
    )


def calibration_cost(history: History) -> Spending:
    """What measuring the step times cost before the first trial."""
    return sum((t.spending for t in history if t.tags.get("stage") == "calibration"), Spending())


def max_stable_lr(history: History) -> float | None:
    """The largest lr that finished below every one that diverged; None where nothing diverged above it."""
    diverged = [t.lr for t in history if t.status == "diverged"]
    return max((t.lr for t in history.finished if t.lr < min(diverged)), default=None) if diverged else None


def undiverged_lr(history: History) -> float | None:
    """The largest lr tried, where none diverged at all."""
    none = all(t.status != "diverged" for t in history)
    return max((t.lr for t in history.finished), default=None) if none else None


def nothing(history: History) -> Recommendation:
    """No lr can be recommended; why, and what to do."""
    diverged = [t.lr for t in history if t.status == "diverged"]
    failed = [t for t in history if t.status == "failed"]
    if diverged:
        why = f"all {len(diverged)} trials diverged, the lowest at lr {min(diverged):.2g}: search lower with --lr-range"
    elif failed:
        why = f"all {len(failed)} trials failed; the last said: {failed[-1].error}"
    else:
        why = "no trial has finished yet"
    return Recommendation(
        lr=None, reasons=(why,), max_stable_lr=max_stable_lr(history), undiverged_lr=undiverged_lr(history)
    )
