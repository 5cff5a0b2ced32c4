"""What a history says about each (N, D, B): its trials grouped into cells, with the optimum of each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

from scaling.optimum import Optimum, fit_optimum
from search.records import History, Trial
from trainer.config import RunConfig
from trainer.counts import flops_per_token, parameters


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Trials that differ only in lr and seed, compared at the same horizon."""

    run: RunConfig
    """What they share; lr None, seed 0."""
    horizon: int
    """D: tokens trained when the loss was measured."""
    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    """nats a token, one for each of `lrs`."""
    diverged: tuple[float, ...]
    """lrs of diverged trials."""
    trials: tuple[str, ...]
    """Ids: those of `lrs` in order, then the diverged ones."""
    optimum: Optimum | None
    """None when no trial finished."""

    @property
    def n_total(self) -> int:
        return parameters(self.run.model).total

    @property
    def n_non_embedding(self) -> int:
        return parameters(self.run.model).non_embedding

    @property
    def batch(self) -> int:
        """Tokens an optimiser step."""
        return self.run.batch

    @property
    def flops(self) -> float:
        """C: training FLOPs of one run up to the horizon."""
        return float(flops_per_token(self.run.model)) * self.horizon


def cells(history: History, *, noise: float | None = None) -> list[Cell]:
    """The cells of `history`, ordered by N, then D; `noise`: sd of one run's loss in nats, None: estimated.

    Pruned and failed trials say nothing about a loss and are left out.
    """
    groups: dict[tuple[RunConfig, int], list[Trial]] = defaultdict(list)
    for trial in history:
        if trial.status in ("finished", "diverged"):
            groups[replace(trial.run, lr=None, seed=0), trial.horizon].append(trial)
    found = [_cell(run, horizon, trials, noise) for (run, horizon), trials in groups.items()]
    return sorted(found, key=lambda cell: (cell.n_total, cell.horizon))


def _cell(run: RunConfig, horizon: int, trials: list[Trial], noise: float | None) -> Cell:
    done = [t for t in trials if t.status == "finished" and t.loss is not None]
    lost = [t for t in trials if t.status == "diverged"]
    lrs, losses = tuple(t.lr for t in done), tuple(float(t.loss or 0.0) for t in done)
    diverged = tuple(t.lr for t in lost)
    return Cell(
        run=run, horizon=horizon, lrs=lrs, losses=losses, diverged=diverged,
        trials=tuple(t.id for t in done + lost),
        optimum=fit_optimum(lrs, losses, diverged=diverged, noise=noise),
    )  # fmt: skip
