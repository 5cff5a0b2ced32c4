"""Sweeps of one run over several lrs: what strategies that fit a law across scales are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from search.budget import Spending
from search.evidence.answers import calibration_cost
from search.evidence.cells import Cell, cells
from search.evidence.edges import at_edge
from search.records import History, Proposal
from search.shapes.ladder import warmup_within
from search.strategy import DONE, Done, Stage
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.errors import UserError

FEWEST_LRS = 3  # make a bracket
FEW_LRS = 6  # over three decades are a factor of 4 apart: the widest at which one of three lies in the valley


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One run at several lrs."""

    name: str
    """Begins the ids of its trials."""
    run: RunConfig
    """Without lr."""
    horizon: int
    lrs: tuple[float, ...]


def even_lrs(count: int, lr_range: tuple[float, float]) -> tuple[float, ...]:
    """`count` lrs from one end of the range to the other, evenly in ln lr."""
    low, high = lr_range
    return tuple(low * (high / low) ** (k / max(1, count - 1)) for k in range(count))


def shortened(run: RunConfig, tokens: float) -> RunConfig:
    """The run with a complete schedule of about `tokens`, its warmup as far as it fits."""
    whole = run.steps_at(tokens) * run.batch
    return replace(run, tokens=whole, warmup=warmup_within(run, whole))


def fitting(
    history: History, lrs: int, make: Callable[[int, float], list[Sweep]], extend: int, least: float
) -> list[Sweep]:
    """The largest version of a plan that the budget holds beside the calibration.

    `make(lrs, scale)` gives the sweeps with trainings of `scale` times their wanted length. They are shortened
    to `least`, then lrs are left out, then they are shortened to a fifth of that, then more lrs are left out.
    """
    few, least = min(lrs, FEW_LRS), min(1.0, least)
    options = [(lrs, s) for s in _down(1.0, least)] + [(n, least) for n in range(lrs - 1, few - 1, -1)]
    options += [(few, s) for s in _down(least, least / 5)]
    options += [(n, least / 5) for n in range(few - 1, FEWEST_LRS - 1, -1)]
    before = calibration_cost(history)
    for n, scale in options:
        sweeps = make(n, scale)
        if history.problem.budget.allows(before + _total(history, sweeps, extend)):
            return sweeps
    needed = history.problem.budget.needed(before + _total(history, make(*options[-1]), extend))
    raise UserError(
        f"The budget is too small for this strategy: its smallest plan, {FEWEST_LRS} lrs at every scale, "
        f"needs {needed}."
    )


def _down(start: float, end: float) -> list[float]:
    """From start to end in steps of a tenth."""
    return [s for k in range(60) if (s := start * 0.9**k) > end] + [end]


def stages(history: History, sweeps: Sequence[Sweep], extend: int) -> list[Stage]:
    """A line for each sweep; the `extend` trials beyond its ends are counted, though they may not be needed."""
    return [
        Stage(
            name=s.name,
            trials=len(s.lrs) + extend,
            parameters=parameters(s.run.model).total,
            tokens=(len(s.lrs) + extend) * s.horizon,
            cost=_cost(history, s) * (len(s.lrs) + extend),
            run=s.run,
            note=f"{s.run.model.depth}x{s.run.model.width}, {s.horizon:,} tokens each"
            + (f", {extend} of them only where the optimum lies at an end" if extend else ""),
        )
        for s in sweeps
    ]


def ask_sweeps(history: History, slots: int, sweeps: Sequence[Sweep], extend: int) -> list[Proposal] | Done:
    """First all lrs of all sweeps, then a few beyond the end where an optimum lies at one."""
    new = [_proposal(s, k, lr) for s in sweeps for k, lr in enumerate(s.lrs)]
    new = [p for p in new if p.id not in history.known]
    if not new and not history.running:
        new = [p for s in sweeps for p in _beyond(history, s, extend)]
    return new[:slots] if new or history.running else DONE


def cells_of(history: History, sweeps: Sequence[Sweep]) -> list[Cell]:
    """The cells of these sweeps' trials alone, those with an optimum."""
    names = {s.name for s in sweeps}
    mine = replace(history, trials=tuple(t for t in history if t.tags.get("stage") in names))
    return [c for c in cells(mine) if c.lrs]


def _beyond(history: History, sweep: Sweep, limit: int) -> list[Proposal]:
    mine = [t for t in history if t.tags.get("stage") == sweep.name]
    extra = len(mine) - len(sweep.lrs)
    observed = [(t.lr, t.loss) for t in mine if t.status in ("finished", "diverged")]
    edge = at_edge(observed)
    if edge is None or extra >= limit:
        return []
    lrs = [lr for lr, _ in observed]
    return [_proposal(sweep, len(mine), min(lrs) / 2 if edge == "low" else max(lrs) * 2)]


def _proposal(sweep: Sweep, k: int, lr: float) -> Proposal:
    return Proposal(
        id=f"{sweep.name}-{k + 1:02d}",
        run=replace(sweep.run, lr=lr),
        horizon=sweep.horizon,
        tags={"stage": sweep.name, "config": k},
    )


def _cost(history: History, sweep: Sweep) -> Spending:
    return history.problem.cost.forecast(sweep.run, sweep.horizon)


def _total(history: History, sweeps: Sequence[Sweep], extend: int) -> Spending:
    return sum((_cost(history, s) * (len(s.lrs) + extend) for s in sweeps), Spending())


def smaller(target: RunConfig, sizes: Sequence[tuple[int, int, int]], depths: Sequence[int] = ()) -> list[RunConfig]:
    """The target with the models of `sizes` (depth, width, heads), where all are smaller than it.

    Otherwise shapes of about 1/8, 1/4 and 1/2 of its non-embedding parameters that keep its head size; a target of
    one head shrinks that. `depths`: those allowed, default any.
    """
    whole = parameters(target.model).non_embedding
    runs = [target.shaped(*size) for size in sizes]
    if all(parameters(r.model).non_embedding < whole for r in runs):
        return runs
    m = target.model
    widths = [(h * m.head_dim, h) for h in range(1, m.heads + 1)]
    widths += [(w, 1) for w in (m.head_dim // 2, m.head_dim // 4) if w >= 8 and w % 2 == 0]
    shapes = [target.shaped(d, w, h) for d in depths or range(1, m.depth + 1) for w, h in widths]
    shapes = [r for r in shapes if parameters(r.model).non_embedding < 0.9 * whole]
    found: list[RunConfig] = []
    for share in (1 / 8, 1 / 4, 1 / 2):
        left = [r for r in shapes if r not in found]
        if left:
            found.append(min(left, key=lambda r: abs(math.log(parameters(r.model).non_embedding / whole / share))))
    return sorted(found, key=lambda r: parameters(r.model).non_embedding)
