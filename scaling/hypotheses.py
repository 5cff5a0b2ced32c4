"""How the best lr moves with N, D or C: hypotheses fitted to optima, compared, and carried to a target.

Errors are always of ln lr, weighted by each optimum's sd. Families that are linear in lr itself (linear,
square root, log) are fitted there with the sd carried over, the others in ln lr; both by Huber reweighting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scaling.arrays import Array
from scaling.families import Family, families, robust_fit

FLOOR_SD = 0.03  # nats: no optimum is known better than its own definition
EDGE_NOTE = "optima at the edge of the tried lrs are left out"
# d ln lr / d ln x that published laws allow (see `published.EXPONENTS`), with a margin
SLOPES = {"N": (-1.2, 0.1), "D": (-0.7, 0.7), "C": (-0.8, 0.3)}


@dataclass(frozen=True, kw_only=True)
class Point:
    """An optimum at one scale, or (log_lr unused) the target."""

    N: float
    D: float
    """Tokens."""
    C: float
    """FLOPs."""
    log_lr: float = 0.0
    sd: float = 0.1
    edge: str | None = None
    """Set when the optimum lies at an end of the tried lrs: then it is not fitted."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One hypothesis after fitting."""

    name: str
    formula: str
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    log_lr: float
    """Extrapolation to the target; nan where the formula gives no positive lr."""
    sd: float
    """Predictive sd of ln lr at the target, under this hypothesis."""
    slope: float
    """d ln lr / d ln x at the target (x as in `formula`; 0 for none, N's for two variables)."""
    slope_sd: float
    loo: float
    """Root mean square of leave-one-out errors of ln lr; nan when it has no points to spare."""
    score: float
    """Mean squared standardised leave-one-out error + 2 parameters / points: less is better."""
    refused: str = ""
    """Why it is not to be trusted; empty when it is."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The verdict over all hypotheses."""

    chosen: Fit | None
    """None when all are refused."""
    all: tuple[Fit, ...]
    """Every hypothesis that could be computed, the best score first."""
    refused: tuple[tuple[str, str], ...]
    """(name, reason), also of those that could not be computed."""
    log_lr: float = math.nan
    """At the target."""
    sd: float = math.nan
    """Of `log_lr`: the chosen one's, and how far the other credible ones lie from it."""
    reasons: tuple[str, ...] = field(default=())


def varying(points: Sequence[Point], target: Point) -> tuple[str, ...]:
    """Which of N and D differ among points and target by more than 5 %; C is offered when both do."""

    def spread(v: str) -> float:
        values = [math.log(getattr(p, v)) for p in (*points, target)]
        return max(values) - min(values)

    found = tuple(v for v in ("N", "D") if spread(v) > 0.05)
    return (*found, "C") if len(found) == 2 else found or ("N",)


def choose(points: Sequence[Point], target: Point, variables: Sequence[str] | None = None) -> Choice:
    """Fit every hypothesis in `variables` (default: those that vary), choose one, extrapolate to `target`."""
    usable = [p for p in points if p.edge is None]
    notes = [f"{len(points) - len(usable)} of {len(points)} {EDGE_NOTE}."] if len(usable) < len(points) else []
    forms = families(tuple(variables) if variables else varying(points, target))
    if not usable:
        why = "there is no optimum inside the tried lrs"
        return Choice(
            chosen=None,
            all=(),
            refused=tuple((f.name, why) for f in forms),
            reasons=tuple(notes),
        )
    fits: list[Fit] = []
    refused: list[tuple[str, str]] = []
    for family in forms:
        result = _fit(family, usable, target)
        if isinstance(result, str):
            refused.append((family.name, result))
            continue
        fits.append(result)
        if result.refused:
            refused.append((family.name, result.refused))
    fits.sort(key=lambda f: (bool(f.refused), f.score))
    credible = [f for f in fits if not f.refused]
    if not credible:
        return Choice(chosen=None, all=tuple(fits), refused=tuple(refused), reasons=tuple(notes))
    best = credible[0]
    compared = [f for f in credible if math.isfinite(f.score)] or credible[:1]
    weight = np.exp(-len(usable) / 2 * np.array([f.score - compared[0].score for f in compared]))
    weight = np.nan_to_num(weight, nan=1.0)  # one alone without a point to spare: inf - inf
    shift = np.array([f.log_lr - best.log_lr for f in compared])
    between = float(weight @ shift**2 / weight.sum())
    return Choice(
        chosen=best, all=tuple(fits), refused=tuple(refused), log_lr=best.log_lr,
        sd=math.sqrt(best.sd**2 + between), reasons=tuple(notes),
    )  # fmt: skip


def _coordinates(family: Family, points: Sequence[Point], reference: Point) -> Array:
    return np.array([[math.log(getattr(p, v) / getattr(reference, v)) for v in family.variables] for p in points])


def _fit(family: Family, points: Sequence[Point], target: Point) -> Fit | str:
    """The fit, or the reason why there is none. x is scaled by the largest point's, so that exp stays small."""
    reference = max(points, key=lambda p: tuple(getattr(p, v) for v in family.variables))
    z, z_target = _coordinates(family, points, reference), _coordinates(family, [target], reference)
    with np.errstate(over="ignore"):
        X, x = family.basis(z), family.basis(z_target)[0]
    n, p = X.shape
    if not np.all(np.isfinite(x)):
        return "the target is too far away to compute it"
    if n < p or np.linalg.matrix_rank(X) < p:
        return f"{n} optim{'um' if n == 1 else 'a'} cannot fix {p} parameters"
    log_lr = np.array([q.log_lr for q in points])
    sd = np.maximum(np.array([q.sd for q in points]), FLOOR_SD)
    scale = np.exp(log_lr) if family.in_lr else np.ones(n)
    y = scale if family.in_lr else log_lr
    beta, cov, loo = robust_fit(X, y, sd * scale)
    errors = loo / scale
    value = float(x @ beta)
    spread = float(np.sqrt(x @ cov @ x))
    mean, sd_target = _in_log(value, spread, family.in_lr)
    slope, slope_sd = _slope(family, beta, cov, z_target, mean)
    missed, score = (
        float(np.sqrt(np.mean(errors**2))),
        float(np.mean((errors / sd) ** 2)) + 2 * p / n,
    )
    reason = _refusal(family, z, z_target, n, p, mean, slope, slope_sd)
    if not reason and n > p and missed > 0.5 and score > 9:
        reason = f"it misses its own optima {math.exp(min(missed, 99.0)):.2g}-fold when each is left out"
    return Fit(
        name=family.name, formula=family.formula, coefficients=tuple(beta.tolist()),
        covariance=tuple(map(tuple, cov.tolist())), log_lr=mean, sd=sd_target, slope=slope, slope_sd=slope_sd,
        loo=missed if n > p else math.nan, score=score if n > p else math.inf, refused=reason,
    )  # fmt: skip


def _in_log(value: float, spread: float, in_lr: bool) -> tuple[float, float]:
    if not in_lr:
        return value, spread
    return (math.log(value), spread / value) if value > 0 else (math.nan, math.nan)


def _slope(family: Family, beta: Array, cov: Array, z: Array, log_lr: float) -> tuple[float, float]:
    """d ln lr / d ln x at the target and its sd, by a small step in the first variable."""
    step = np.zeros_like(z)
    step[0, 0] = 1e-4
    d = (family.basis(z + step)[0] - family.basis(z)[0]) / 1e-4
    scale = math.exp(-log_lr) if family.in_lr and math.isfinite(log_lr) else 1.0
    return float(d @ beta) * scale, float(np.sqrt(max(d @ cov @ d, 0))) * scale


def _refusal(
    family: Family,
    z: Array,
    target: Array,
    n: int,
    p: int,
    mean: float,
    slope: float,
    slope_sd: float,
) -> str:
    if not math.isfinite(mean):
        return "it gives no positive lr at the target"
    if p > 1 and n <= p:
        return f"{n} optima fix its {p} parameters and leave none to check it"
    if p == 1:
        return ""
    span, beyond = (
        np.ptp(z, axis=0),
        np.maximum(target[0] - z.max(axis=0), z.min(axis=0) - target[0]),
    )
    for v, s, b in zip(family.variables, span, beyond, strict=True):
        if s < 0.05:
            return f"{v} does not vary among the optima"
        if b > family.reach * s:
            return (
                f"the target's {v} lies {math.exp(b):.3g}-fold beyond optima that span {math.exp(s):.3g}-fold: "
                f"too far for this form"
            )
    low, high = SLOPES[family.variables[0]]
    if slope - slope_sd > high or slope + slope_sd < low:
        way = "rises" if slope > 0 else "falls"
        return (
            f"lr {way} as {family.variables[0]}^{slope:.2f} at the target, against all published evidence "
            f"({low:g} to {high:g})"
        )
    return ""


SHIFT = {"N": 0.5, "D": 0.25}
"""sd of ln lr* per nat of ln N or ln D, when an optimum is copied without a law: see `copy_sd`."""


def copy_sd(d_log_n: float, d_log_d: float) -> float:
    """sd of ln lr* from copying an optimum over these distances with no law (nats).

    Root mean square in slices of the Step Law sweep at a fixed batch: 0.25 a nat of D over 158 pairs (mean
    0.01: it falls at small batches and rises at large ones), 0.5 a nat of N (its mean over 62 pairs is -0.50;
    published laws lie between -0.13 and -0.71).
    """
    return math.hypot(SHIFT["N"] * d_log_n, SHIFT["D"] * d_log_d)
