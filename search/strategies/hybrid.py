"""Hybrid: Hyperband at several model sizes, and a law of N across their winners."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from search.evidence.answers import calibration_cost
from search.evidence.cells import Cell, cells
from search.evidence.law import recommend_by_law
from search.evidence.sweeps import smaller
from search.records import History, Problem, Proposal, Recommendation, Trial
from search.shapes.menu import nearest
from search.strategies.hyperband import Hyperband
from search.strategy import DONE, Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.errors import UserError

R = TypeVar("R", Trial, Proposal)


@dataclass(frozen=True, kw_only=True)
class Hybrid(Strategy):
    """Each size is a Hyperband search of its own with an equal share of the budget."""

    sizes: tuple[tuple[int, int, int], ...] = ((1, 64, 1), (2, 128, 2), (3, 192, 3))
    """depth, width, heads of each model. Where one is not smaller than the target: about 1/8, 1/4 and 1/2 of it."""
    each: Hyperband = field(default_factory=lambda: Hyperband(sampler="qmc"))
    """The search at each size."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"lengths", "sizes"})

    def plan(self, history: History) -> list[Stage]:
        return [
            replace(stage, name=f"{name}, {stage.name}", waits=False)  # one part goes on while another waits
            for name, part in self._parts(history)
            for stage in self.each.plan(part)
        ]

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        new: list[Proposal] = []
        waiting = False
        for name, part in self._parts(history):
            answer = self.each.ask(part, slots - len(new)) if len(new) < slots else []
            waiting |= not isinstance(answer, Done)
            if not isinstance(answer, Done):
                new += [_named(name, p) for p in answer]
        return new if new or waiting or history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        names = [name for name, _ in self._parts(history)]
        return recommend_by_law(history, [c for name in names for c in _longest(history, name)], "N")

    def keeps(self, history: History) -> set[str]:
        return {f"{name}-{kept}" for name, part in self._parts(history) for kept in self.each.keeps(part)}

    def _parts(self, history: History) -> Iterator[tuple[str, History]]:
        """Each size with its own problem and its own trials, under the ids that its Hyperband gave."""
        runs = self._runs(history.problem)
        share = history.problem.budget.part(calibration_cost(history), len(runs))
        for run in runs:
            name = f"{run.model.depth}x{run.model.width}"
            problem = replace(history.problem, target=run, budget=share)
            trials = tuple(_inner(name, t) for t in history if t.id.startswith(f"{name}-"))
            running = tuple(_inner(name, p) for p in history.running if p.id.startswith(f"{name}-"))
            yield name, History(problem=problem, trials=trials, running=running)

    def _runs(self, problem: Problem) -> list[RunConfig]:
        whole = parameters(problem.target.model).non_embedding
        found: dict[int, RunConfig] = {}
        for wanted in smaller(problem.target, self.sizes):
            run = replace(nearest(problem, wanted), lr=None)
            found.setdefault(parameters(run.model).non_embedding, run)
        runs = [run for n, run in sorted(found.items()) if n < whole]
        if not runs:
            raise UserError("hybrid needs a proxy smaller than the target, and there is none.")
        return runs


def _longest(history: History, name: str) -> list[Cell]:
    """Of one size, the cell of the longest horizon at which three lrs finished, or the longest."""
    mine = replace(history, trials=tuple(t for t in history if t.tags.get("size") == name))
    found = [c for c in cells(mine) if c.lrs]
    return sorted(found, key=lambda c: (len(c.lrs) >= 3, c.horizon))[-1:]


def _named(name: str, proposal: Proposal) -> Proposal:
    parent = None if proposal.parent is None else f"{name}-{proposal.parent}"
    stage = f"{name}, {proposal.tags['stage']}"
    return replace(
        proposal, id=f"{name}-{proposal.id}", parent=parent, tags={**proposal.tags, "size": name, "stage": stage}
    )


def _inner(name: str, record: R) -> R:
    cut = len(name) + 1
    return replace(record, id=record.id[cut:], parent=record.parent and record.parent[cut:])
