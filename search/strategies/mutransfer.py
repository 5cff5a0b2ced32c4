"""muTransfer (Yang et al., arXiv 2203.03466): tune a small model in muP or CompleteP and copy its lr."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from search.evidence.answers import nothing, recommend_from_cell
from search.evidence.sweeps import Sweep, ask_sweeps, cells_of, even_lrs, fitting, shortened, smaller, stages
from search.records import History, Proposal, Recommendation
from search.shapes.menu import nearest
from search.strategy import Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.errors import UserError

FEW_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class MuTransfer(Strategy):
    """One small model at about ten lrs; under these parametrisations the best lr is meant not to move with N."""

    parametrisation: Literal["mup", "completep"] = "completep"
    """muP holds over width; CompleteP (arXiv 2505.01618) over width and depth. A target that has one keeps it."""
    size: tuple[int, int, int] = (3, 192, 3)
    """depth, width, heads of the proxy; about half the target where that is not smaller. muP keeps the depth."""
    lrs: int = 10
    """Evenly over --lr-range; fewer where the budget holds no more."""
    fraction: float = 1.0
    """Of the target's tokens that each trial trains, with a complete schedule; less where the budget holds no more."""
    extend: int = 2
    """Trials beyond the end of the lrs where the best lies there."""

    def __post_init__(self) -> None:
        if self.lrs < 3 or not 0 < self.fraction <= 1 or self.extend < 0:
            raise UserError("--mutransfer needs at least 3 lrs, 0 < fraction <= 1 and extend >= 0.")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"lengths", "sizes", "parametrisations"})

    def plan(self, history: History) -> list[Stage]:
        return stages(history, self._sweeps(history), self.extend)

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        return ask_sweeps(history, slots, self._sweeps(history), self.extend)

    def recommend(self, history: History) -> Recommendation:
        found = [(c, o) for c in cells_of(history, self._sweeps(history)) if (o := c.optimum()) is not None]
        if not found:
            return nothing(history)
        cell, optimum = found[-1]
        target = self._target(history)
        copied = recommend_from_cell(replace(history, problem=replace(history.problem, target=target)), cell, optimum)
        return replace(
            copied,
            law=f"copied, by no law: the proxy's best lr, in {cell.run.parametrisation}",
            reasons=(*self._assumptions(history, cell.run, target), *copied.reasons),
            settings=_settings(target) if history.problem.target.parametrisation == "sp" else {},
            details={**copied.details, **_settings(target)},
        )

    def _assumptions(self, history: History, proxy: RunConfig, target: RunConfig) -> list[str]:
        if proxy.parametrisation == "sp":
            return ["the proxies that may be run are not in muP: copying the lr over sizes is not supported here"]
        said = [
            "assumes that a coordinate check of this model passes: then activations do not move with size, and the "
            "best lr is meant to stay put; published checks still find shifts of up to x2"
        ]
        if history.problem.target.parametrisation == "sp":
            flags = " ".join(f"{k}={v}" for k, v in _settings(target).items())
            said.append(
                f"the lr holds only for the target in {target.parametrisation} ({flags}), as hpt.train trains it"
            )
        return said

    def _target(self, history: History) -> RunConfig:
        """The target in the parametrisation, equal to the standard one at the proxy's shape."""
        target = history.problem.target
        if target.parametrisation != "sp":
            return target
        base = self._shape(target).model
        return replace(target, parametrisation=self.parametrisation, base_width=base.width, base_depth=base.depth)

    def _shape(self, target: RunConfig) -> RunConfig:
        _, width, heads = self.size
        which = target.parametrisation if target.parametrisation != "sp" else self.parametrisation
        if which == "mup":
            return smaller(target, ((target.model.depth, width, heads),), (target.model.depth,))[-1]
        return smaller(target, (self.size,))[-1]

    def _sweeps(self, history: History) -> list[Sweep]:
        least = FEW_STEPS / (self.fraction * history.problem.target.steps)
        return fitting(history, self.lrs, lambda n, s: self._make(history, n, s), self.extend, least)

    def _make(self, history: History, lrs: int, scale: float) -> list[Sweep]:
        problem, target = history.problem, self._target(history)
        wanted = shortened(self._shape(target), scale * self.fraction * target.tokens)
        run = nearest(problem, wanted)
        if parameters(run.model).non_embedding >= parameters(target.model).non_embedding:
            raise UserError("mutransfer needs a proxy smaller than the target, and there is none.")
        name = f"{run.parametrisation}-{run.model.depth}x{run.model.width}"
        return [Sweep(name=name, run=run, horizon=run.tokens, lrs=even_lrs(lrs, problem.lr_range))]


def _settings(target: RunConfig) -> dict[str, str | int]:
    return {
        "parametrisation": target.parametrisation,
        "base_width": target.base_width,
        "base_depth": target.base_depth,
    }
