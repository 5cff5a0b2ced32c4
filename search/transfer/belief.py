"""What a history says about the target under the batch-conditional law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from scaling.batchlaw import LAWLESS, Prior, prior
from scaling.batchsize import fit_batches
from scaling.hierarchy import fit
from scaling.posterior import Posterior, Runs
from search.records import History, Problem, Trial, point
from search.transfer.settings import TransferSettings

NARROWER = 0.75
"""Of the covariance's standard deviation, from LAWLESS parameters up: with the whole of it intervals held the best lr
more often than they say."""
FRAIL = 1 / 16
"""Power by which it grows below, to the whole at 1e5 parameters: above their best lr small models fail or not by the
luck of a seed, which the law does not know (notebooks/LOG.md, 2026-11-28)."""


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

    def foretold(self, at: np.ndarray) -> tuple[float, float, float]:
        """Of ln lr* at (n, d, b) relative to the target: mean, sd, and how far below the mean the lr of least expected
        loss lies. The valley is Linex (Zellner 1986), k its asymmetry: that is k Var / 2."""
        mean, sd = self.posterior.predict(*at)
        sd *= min(1.0, NARROWER * max(1.0, LAWLESS / math.exp(self.origin[0])) ** FRAIL)
        return mean, sd, self.posterior.k * sd**2 / 2

    @cached_property
    def rows(self) -> tuple[tuple[float, ...], ...]:
        """(n, d, b, ln lr, loss) of finished and diverged trials, relative to the target."""
        return tuple(
            (*(np.array(point(t.run)) - self.origin).tolist(), math.log(t.lr), math.inf if t.loss is None else t.loss)
            for t in self.history
            if t.status in ("finished", "diverged") and "setting" not in t.tags  # another setting's sweep
        )

    @property
    def runs(self) -> Runs:
        return _runs(self.rows)

    @cached_property
    def prior(self) -> Prior:
        return _prior(tuple(self.origin.tolist()), self.problem.target.parametrisation, self.settings.guess)

    @cached_property
    def posterior(self) -> Posterior:
        return _posterior(
            self.rows, tuple(self.origin.tolist()), self.problem.target.parametrisation, self.settings.guess
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


def _runs(rows: tuple[tuple[float, ...], ...]) -> Runs:
    return Runs(*np.array(rows).reshape(-1, 5).T)


def _prior(origin: tuple[float, ...], parametrisation: str, guess: float | None) -> Prior:
    n, d, b = np.exp(origin)
    return prior(n, d, b, parametrisation, guess)


@lru_cache(maxsize=32)
def _posterior(
    rows: tuple[tuple[float, ...], ...], origin: tuple[float, ...], parametrisation: str, guess: float | None
) -> Posterior:
    """Kept, for one decision asks for the same fit several times."""
    return fit(_runs(rows), _prior(origin, parametrisation, guess))
