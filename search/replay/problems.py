"""Problems posed on a recorded sweep: a target, and the smaller runs that may be asked for."""

from __future__ import annotations

from typing import Literal

from search.budget import Budget, CostModel
from search.records import Problem
from search.replay.world import World
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig
from trainer.errors import UserError

Holdout = Literal["size", "run", "target"]
USUAL = (1e-4, 1e-1)  # lrs: the default of `hpt.search`


def problem_for(
    world: World,
    target: RunConfig,
    *,
    share: float,
    holdout: Holdout = "size",
    seed: int = 0,
    lr_range: tuple[float, float] | None = None,
) -> Problem:
    """The problem of `target` with what is smaller as proxies and `share` of its FLOPs as budget.

    Smaller means, for `size`: fewer parameters, any number of tokens; for `run`: that, and runs of
    the target's size on fewer tokens; for `target`: that and the target itself, and no other size.
    Else the target's own cell, and whatever is larger, is never
    shown.
    """
    if holdout == "target":
        return direct_problem(world, target, share=share, seed=seed)
    n, d, b = world.key(target)
    proxies = []
    for n_, d_ in sorted({(n_, d_) for n_, d_, _ in world.table.cells}):
        if n_ < n or (holdout == "run" and n_ == n and d_ < d):
            batches = set(world.table.batches(n_, d_))
            if min(batches) <= b <= max(batches):
                batches.add(b)
            proxies += [world.configuration(n_, d_, v) for v in sorted(batches)]
    if not proxies:
        raise UserError(
            f"The table has nothing smaller than N={n:g}, D={d:g}: choose a larger target, or --holdout run."
        )
    return _problem(world, target, tuple(proxies), share, seed, lr_range)


def direct_problem(world: World, target: RunConfig, *, share: float, seed: int = 0) -> Problem:
    """The same for peers that train at the target's size itself: all its recorded horizons up to
    the target's."""
    n, d, b = world.key(target)
    horizons = sorted({d_ for n_, d_, _ in world.table.cells if n_ == n and d_ <= d})
    inside = [h for h in horizons if (near := world.table.batches(n, h)) and near[0] <= b <= near[-1]]
    return _problem(world, target, tuple(world.configuration(n, h, b) for h in inside), share, seed, None)


def _problem(
    world: World,
    target: RunConfig,
    proxies: tuple[RunConfig, ...],
    share: float,
    seed: int,
    lr_range: tuple[float, float] | None,
) -> Problem:
    return Problem(
        target=target,
        budget=Budget(flops=share * run_flops(target, target.tokens)),
        cost=CostModel(evaluations=0),
        lr_range=lr_range or world.spans(proxies),
        proxies=proxies,
        recorded=tuple(world.range(run) for run in proxies),
        seed=seed,
    )
