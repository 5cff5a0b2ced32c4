"""What a history says: its trials grouped into cells that differ in nothing but the lr, each with its optimum."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace

from scaling.optimum import Optimum, fit_optimum
from search.records import History, Trial
from trainer.architecture.counts import parameters
from trainer.config import RunConfig, to_dict


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Trials of one run at several lrs, compared at one horizon."""

    run: RunConfig
    """Without lr; its seed is the first trial's."""
    horizon: int
    """D: tokens after which the losses were measured."""
    trials: tuple[Trial, ...]
    """Finished and diverged ones."""

    @property
    def n_total(self) -> int:
        return parameters(self.run.model).total

    @property
    def n_non_embedding(self) -> int:
        return parameters(self.run.model).non_embedding

    @property
    def batch(self) -> int:
        return self.run.batch

    @property
    def lrs(self) -> list[float]:
        """Of finished trials."""
        return [t.lr for t in self.trials if t.loss is not None]

    @property
    def losses(self) -> list[float]:
        return [t.loss for t in self.trials if t.loss is not None]

    @property
    def diverged(self) -> list[float]:
        return [t.lr for t in self.trials if t.loss is None]

    @property
    def cut_short(self) -> bool:
        """The schedule was laid for more tokens than were trained: the loss is not annealed."""
        return self.run.steps_at(self.horizon) < self.run.steps

    def optimum(self) -> Optimum | None:
        return fit_optimum(self.lrs, self.losses, diverged=self.diverged)


def cells(history: History) -> list[Cell]:
    """Cells in the order of (N, D, B). Warmup is not told apart: strategies shorten it with the horizon."""
    groups: dict[str, list[Trial]] = defaultdict(list)
    for trial in history:
        if trial.status in ("finished", "diverged"):
            same = replace(trial.run, lr=None, seed=0, warmup=0)
            groups[json.dumps([to_dict(same), trial.horizon])].append(trial)
    found = [Cell(run=replace(g[0].run, lr=None), horizon=g[0].horizon, trials=tuple(g)) for g in groups.values()]
    return sorted(found, key=lambda c: (c.n_non_embedding, c.horizon, c.batch))
