"""The targets that strategies are judged on: cells of a recorded sweep, and planted problems."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from search.records import Problem
from search.replay.arena import Rules
from search.replay.contenders import Contender, Needs
from search.replay.planted import Planted
from search.replay.problems import USUAL, Holdout, direct_problem, problem_for
from search.replay.table import Table
from search.replay.truth import Truth, Valley
from search.replay.world import Answers, World
from search.shapes.ladder import size_of
from trainer.config import RunConfig
from trainer.errors import UserError


@dataclass(frozen=True)
class TableCase:
    """A cell of a recorded sweep."""

    world: World
    target: RunConfig
    rules: Rules
    hopeless: str = ""

    @property
    def table(self) -> str:
        return self.world.table.name

    @property
    def key(self) -> tuple[int, int, int]:
        return self.world.key(self.target)

    @property
    def truth(self) -> TableTruth:
        return self._truth

    @cached_property
    def _truth(self) -> TableTruth:
        return TableTruth(self.world.table, self.key, self.rules.search == "lr,batch")

    @property
    def serves(self) -> tuple[Needs, ...]:
        return ("whole runs", "curves") if self.first <= 0.5 else ("whole runs",)

    @property
    def first(self) -> float:
        return self._first

    @cached_property
    def _first(self) -> float:
        """Of the target's own curves, or of its proxies' where those begin later and any tell."""
        problem = problem_for(self.world, self.target, share=1.0, holdout=self.rules.holdout or "size")
        own = self.world.earliest(self.target) / self.target.tokens
        shares = [self.world.earliest(run) / run.tokens for run in problem.proxies or ()]
        return max([own, *(share for share in shares if share <= 0.5)])

    def pose(self, who: Contender, share: float, seed: int) -> tuple[Problem, Answers]:
        world = replace(self.world, noise=self.world.sd, seed=seed)
        if who.where == "target":
            return direct_problem(world, self.target, share=share, seed=seed), world
        holdout, lrs = self.rules.holdout or "size", USUAL if who.knows else None
        return problem_for(world, self.target, share=share, holdout=holdout, seed=seed, lr_range=lrs), world


@dataclass(frozen=True)
class TableTruth:
    """The valleys of one (N, D), at the target's batch or at all."""

    table: Table
    key: tuple[int, int, int]
    joint: bool

    @cached_property
    def valleys(self) -> dict[int, Valley]:
        n, d, b = self.key
        return {v: self.table.valley(n, d, v) for v in (self.table.batches(n, d) if self.joint else [b])}

    @cached_property
    def _smooth(self) -> Valley:
        return min(self.valleys.values(), key=lambda v: v.lowest)

    @cached_property
    def _grid(self) -> Valley:
        return min(self.valleys.values(), key=lambda v: v.lowest_grid)

    @property
    def best(self) -> float:
        return math.exp(self._smooth.best)

    @property
    def best_grid(self) -> float:
        return math.exp(self._grid.centre)

    def regret(self, lr: float, batch: int) -> tuple[float, float]:
        known = sorted(self.valleys)
        if not known[0] <= batch <= known[-1]:
            return math.nan, math.nan
        low, high = max(v for v in known if v <= batch), min(v for v in known if v >= batch)
        share = 0.0 if low == high else math.log(batch / low) / math.log(high / low)
        x, found = math.log(lr), []
        for at, lowest in ((Valley.at, self._smooth.lowest), (Valley.at_grid, self._grid.lowest_grid)):
            left, right = at(self.valleys[low], x), at(self.valleys[high], x)
            loss = left if share == 0 else (1 - share) * left + share * right
            found.append(100 * (loss / lowest - 1))
        return found[0], found[1]


@dataclass(frozen=True)
class PlantedCase:
    """A planted problem."""

    table: str
    planted: Planted
    rules: Rules
    serves: tuple[Needs, ...] = ("whole runs", "curves", "any run")
    first: float = 0.0

    @property
    def hopeless(self) -> str:
        return "" if self.planted.kind == "valley" else self.planted.kind

    @property
    def key(self) -> tuple[int, int, int]:
        return size_of(self.target), self.target.tokens, self.target.batch

    @property
    def target(self) -> RunConfig:
        return self.planted.target

    @property
    def truth(self) -> Truth:
        return self.planted.truth(self.rules.search == "lr,batch")

    def pose(self, who: Contender, share: float, seed: int) -> tuple[Problem, Answers]:
        world = replace(self.planted, seed=self.planted.seed + 1000 * seed)
        problem = world.problem(share, menu=self.rules.holdout == "size" and who.where == "proxies")
        return problem, world


def targets(world: World, rules: Rules) -> tuple[list[TableCase], list[str]]:
    """(the runs to be predicted, each with something smaller in the table; what was dropped, in sentences)"""
    table, found, edges, bare = world.table, [], 0, 0
    holdout = rules.holdout or "size"
    largest = (table.sizes[1:] if holdout == "size" else table.sizes)[-rules.sizes :]
    if rules.sizes < 1 or not largest:
        raise UserError(
            f"{table.name} holds a single size, {table.sizes[0]:g}: use --holdout run or target, or a table of several."
        )
    for n, d in sorted({(n, d) for n, d, _ in table.cells if n in largest}):
        batches = table.batches(n, d)
        best = min(batches, key=lambda b: table.valley(n, d, b).lowest)
        for b in batches if rules.batch == "all" else [best]:
            run = world.configuration(n, d, b)
            if not _posed(world, run, holdout):
                bare += 1
            elif table.valley(n, d, b).edge:
                edges += 1
            else:
                found.append(TableCase(world, run, rules))
    if not found and edges:
        raise UserError(
            f"{table.name} has no usable target: in {edges} cells the lowest loss is at the smallest or largest lr, so "
            "the best lr is not known. Record lrs beyond, or take more --sizes."
        )
    if not found:
        raise UserError(f"No target of {table.name} has a smaller run in it: use --holdout run or target.")
    return found, _dropped(found, edges, bare)


def _dropped(found: list[TableCase], edges: int, bare: int) -> list[str]:
    notes = []
    if edges:
        notes.append(
            f"{edges} targets whose lowest loss is at the end of their lrs: dropped, their best lr is not known."
        )
    if bare:
        notes.append(f"{bare} targets without anything smaller in the table: dropped.")
    if rough := sum(any(v.fit is None for v in case.truth.valleys.values()) for case in found):
        notes.append(
            f"{rough} of {len(found)} targets have too few lrs near the best for a smooth fit: the grid's stands."
        )
    return notes


def _posed(world: World, run: RunConfig, holdout: Holdout) -> bool:
    try:
        problem_for(world, run, share=1.0, holdout=holdout)
    except UserError:
        return False
    return True
