"""What a history says about the target under the batch-conditional law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from scaling.batchlaw import prior
from scaling.batchsize import fit_batches
from scaling.hierarchy import fit
from scaling.posterior import Posterior, Runs
from search.records import History, Problem, Trial, point
from search.transfer.settings import TransferSettings


@dataclass
class Belief:
    """Made anew from a history at every decision; everything in it is derived."""

    settings: TransferSettings
    history: History

    @property
    def problem(self) -> Problem:
        return self.history.problem

    @cached_property
    def origin(self) -> np.ndarray:
        return np.array(point(self.problem.target))

    @cached_property
    def runs(self) -> Runs:
        """Finished and diverged trials, relative to the target."""
        rows = [
            (
                *(np.array(point(t.run)) - self.origin),
                math.log(t.lr),
                math.inf if t.loss is None else t.loss,
            )
            for t in self.history
            if t.status in ("finished", "diverged") and "setting" not in t.tags  # another setting's sweep
        ]
        return Runs(*np.array(rows).reshape(-1, 5).T)

    @cached_property
    def posterior(self) -> Posterior:
        n, d, b = np.exp(self.origin)
        return fit(
            self.runs,
            prior(n, d, b, self.problem.lr_range, self.problem.target.parametrisation),
        )

    @cached_property
    def joint(self) -> bool:
        return self.settings.search == "lr,batch"

    @cached_property
    def batches(self) -> Posterior:
        """Of ln B*, from the floors of the lr valleys."""
        return fit_batches(self.posterior, self.runs, self.origin)

    def best_batch(self, n: float, d: float) -> float:
        """ln of the batch of most interest at (ln N, ln D): the target's, or the predicted best
        where it is searched."""
        if not self.joint:
            return float(self.origin[2])
        return self.batches.predict(n - self.origin[0], d - self.origin[1])[0]

    @cached_property
    def target(self) -> np.ndarray:
        """(n, d, b) of the answer: the origin, or at the best batch that is known."""
        return np.array([0.0, 0.0, self.best_batch(*self.origin[:2]) - self.origin[2]])

    @property
    def batch(self) -> int:
        """The best batch known for the target, in tokens: whole sequences."""
        context = self.problem.target.model.context
        return max(1, round(math.exp(self.target[2] + self.origin[2]) / context)) * context

    def size(self, trial: Trial) -> float:
        """ln N of a trial's model."""
        return point(trial.run)[0]
