"""From optima at several scales to the target, by the best of the transfer hypotheses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scaling.hypotheses import Choice, Fit, Point, choose, copy_sd
from scaling.optimum import Optimum
from search.evidence.answers import nothing, recommend_from_cell, recommendation
from search.evidence.cells import Cell
from search.records import History, Recommendation
from trainer.architecture.counts import flops_per_token, parameters
from trainer.config import RunConfig

# A law fitted on smaller sizes misses the next size up by 0.16 in ln lr (root mean square over the Step Law sweep,
# sizes 1.25 to 2 apart), beyond what its own covariance knows.
DRIFT = 0.15  # sd a nat of extrapolation


def recommend_by_law(history: History, measured: Sequence[Cell], variable: str) -> Recommendation:
    """Carry the optima of `measured` to the target along `variable` (N or D); the other is copied, for an sd.

    Where no hypothesis can be trusted, the optimum nearest to the target is copied, with its wider interval.
    """
    found = [(cell, o) for cell in measured if (o := cell.optimum()) is not None]
    if not found:
        return nothing(history)
    target = history.problem.target
    points = [_point(cell, o) for cell, o in found]
    goal = _point_of(target, target.tokens)
    choice = choose(points, goal, (variable,))
    if choice.chosen is None:
        bracketed = [pair for pair in found if pair[1].edge is None]
        copied = recommend_from_cell(history, *(bracketed or found)[-1])
        why = "no law across the scales can be trusted: " + _refusals(choice)
        return _with(copied, choice, (*choice.reasons, why))
    fitted = [(pair, p) for pair, p in zip(found, points, strict=True) if p.edge is None]
    (cell, optimum), nearest = fitted[-1]
    nats_n, nats_d = (abs(math.log(_at(goal, v) / _at(nearest, v))) for v in ("N", "D"))
    extrapolated = nats_n if variable == "N" else nats_d
    left = copy_sd(0, nats_d) if variable == "N" else copy_sd(nats_n, 0)
    drift = DRIFT * extrapolated
    if choice.chosen.name == "none" and len(fitted) < 3:
        # Nothing was seen of how the optimum moves: it is copied.
        drift = copy_sd(nats_n, 0) if variable == "N" else copy_sd(0, nats_d)
    sd = math.hypot(choice.sd, drift, left)
    return recommendation(
        history,
        optimum,
        choice.log_lr,
        sd,
        law=f"{choice.chosen.name}: {_written(choice.chosen)}, optima used: {len(fitted)}",
        reasons=[*choice.reasons, *_reasons(choice, cell, variable, extrapolated, drift, left)],
        trials=tuple(t.id for c, _ in found for t in c.trials),
        rejected=_rejected(choice),
    )


def _reasons(choice: Choice, cell: Cell, variable: str, extrapolated: float, drift: float, left: float) -> list[str]:
    assert choice.chosen is not None
    said = [
        f"{variable} at the target is {math.exp(extrapolated):.3g} times the largest measured; this adds a factor of "
        f"{math.exp(drift):.2f} either way to the interval"
    ]
    if not math.isnan(choice.chosen.loo):
        said.append(f"the law misses an optimum left out by a factor of {math.exp(choice.chosen.loo):.2f}")
    if left > 0.01:
        other = "tokens" if variable == "N" else "model"
        said.append(
            f"the trials' {other} differ from the target's, which the law does not correct: worth a factor of "
            f"{math.exp(left):.2f} either way in the interval"
        )
    if cell.cut_short:
        said.append("the trials' schedule was cut short, so their losses are not annealed")
    return said


def _rejected(choice: Choice) -> tuple[tuple[str, str], ...]:
    """Hypotheses not used, with what they would have said."""
    refused = dict(choice.refused)
    others = [
        (f.name, f"{refused[f.name]} (it says {_lr(f)})" if f.name in refused else f"worse left out; it says {_lr(f)}")
        for f in choice.all
        if f is not choice.chosen
    ]
    named = {f.name for f in choice.all}
    return (*others, *((name, why) for name, why in choice.refused if name not in named))


def _lr(fit: Fit) -> str:
    return f"{math.exp(fit.log_lr):.3g}" if math.isfinite(fit.log_lr) else "no lr"


def _written(fit: Fit) -> str:
    return fit.formula if not fit.slope_sd else f"{fit.formula}, slope {fit.slope:+.2f} +- {fit.slope_sd:.2f}"


def _refusals(choice: Choice) -> str:
    return "; ".join(f"{name}: {why}" for name, why in choice.refused)


def _with(given: Recommendation, choice: Choice, reasons: tuple[str, ...]) -> Recommendation:
    return replace(given, rejected=_rejected(choice), reasons=(*reasons, *given.reasons))


def _point(cell: Cell, optimum: Optimum) -> Point:
    return _point_of(cell.run, cell.horizon, optimum)


def _point_of(run: RunConfig, tokens: float, optimum: Optimum | None = None) -> Point:
    n = parameters(run.model).non_embedding
    where = {"log_lr": optimum.log_lr, "sd": optimum.sd, "edge": optimum.edge} if optimum else {}
    return Point(N=n, D=tokens, C=flops_per_token(run.model, run.predicted) * tokens, **where)


def _at(point: Point, variable: str) -> float:
    return float(getattr(point, variable))
