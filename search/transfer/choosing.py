"""Which runs would say more about the target, for their cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from scaling.batchlaw import valley
from scaling.batchsize import STEP as BATCH_STEP
from scaling.design import Choice, Design
from scaling.posterior import Posterior
from search.budget import Spending
from search.records import History, Problem, point
from search.shapes.ladder import ladder
from search.transfer.belief import Belief
from search.transfer.settings import TransferSettings
from trainer.config import RunConfig

NEAR_BATCHES = 5  # batches of the menu, nearest to the target's, that are considered at each (N, D)


@dataclass
class Chooser:
    """The runs that may be asked for, what each would cost, and which of them are worth it next."""

    belief: Belief

    @property
    def problem(self) -> Problem:
        return self.belief.problem

    @property
    def history(self) -> History:
        return self.belief.history

    @property
    def settings(self) -> TransferSettings:
        return self.belief.settings

    @cached_property
    def menu(self) -> tuple[RunConfig, ...]:
        """All smaller runs there are."""
        if self.problem.proxies is not None:
            return self.problem.proxies
        batches = (2.0, 1.0, 0.5, 0.25, 0.125) if self.belief.joint else (1.0, 0.25)
        return ladder(self.problem.target, self.settings.sizes, self.settings.horizons, batches)

    @cached_property
    def candidates(self) -> list[RunConfig]:
        """Those that may be asked for: affordable at all, without those that failed twice."""
        problem = self.problem
        failed = Counter(point(t.run) for t in self.history if t.status == "failed")
        groups: dict[tuple[float, float], list[RunConfig]] = {}
        for run in self.menu:
            at = point(run)
            if failed[at] < 2 and problem.budget.allows(self._forecast(run)):
                groups.setdefault(at[:2], []).append(run)
        kept: list[RunConfig] = []
        for (n, d), group in groups.items():
            wanted = self.belief.best_batch(n, d)
            group.sort(key=lambda run: (abs(point(run)[2] - wanted), run.batch))  # noqa: B023
            kept += group[:NEAR_BATCHES]
        return kept

    def _forecast(self, run: RunConfig) -> Spending:
        return self.problem.cost.forecast(run, run.tokens)

    @cached_property
    def share_of_target(self) -> float:
        """The target's own cost, as a share of the budget; 1 where the caps are in units that nobody can forecast
        (hours before the first trial of somebody else's trainer): then runs are weighed by their FLOPs alone."""
        return self.problem.budget.share(self._forecast(self.problem.target)) or 1.0

    @cached_property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """(m,) ln of the lowest and highest lr to be asked for of each candidate: wider than the range where the choice
        is free, what was recorded where there is a record."""
        problem = self.problem
        low, high = (np.full(len(self.candidates), math.log(v)) for v in problem.lr_range)
        if problem.proxies is None:
            return low - math.log(4.0), high + math.log(4.0)
        if problem.recorded is not None:
            ends = dict(zip(problem.proxies, np.log(problem.recorded), strict=True))
            low, high = np.array([ends[run] for run in self.candidates]).reshape(-1, 2).T
        return low, high

    @cached_property
    def points(self) -> np.ndarray:
        return np.array([point(run) for run in self.candidates]) - self.belief.origin

    @cached_property
    def costs(self) -> np.ndarray:
        """Of each candidate, as a share of the budget, or of the time that such a share of the target would take
        where that is more: small models are cheap in FLOPs, and run far below the device's speed."""
        target = self._forecast(self.problem.target)
        relative = [
            f.seconds / target.seconds if target.seconds else f.flops / target.flops
            for f in map(self._forecast, self.candidates)
        ]
        shares = [self.problem.budget.share(self._forecast(run)) for run in self.candidates]
        return np.maximum(shares, np.array(relative) * self.share_of_target)

    @cached_property
    def begun(self) -> dict[int, list[tuple[float, float]]]:
        """By candidate, (ln lr, cost) of the runs that would go on from a shorter one's trunk."""
        trunks = [t for t in self.history if t.trunk and t.status == "finished"] if self.settings.trunks else []
        if not trunks:
            return {}
        found: dict[int, dict[float, float]] = {}
        for i, run in enumerate(self.candidates):
            for t in trunks:
                if longer(t.run, run):
                    cost = float(self.costs[i]) * (1 - (t.trunk or 0) / run.tokens)
                    mine = found.setdefault(i, {})
                    mine[math.log(t.lr)] = min(cost, mine.get(math.log(t.lr), math.inf))
            for t in self.history:
                if t.run.tokens == run.tokens and kin(t.run, run):
                    found.get(i, {}).pop(math.log(t.lr), None)  # it has been run
        return {i: sorted(runs.items()) for i, runs in found.items()}

    @cached_property
    def again(self) -> dict[int, list[float]]:
        """By candidate, the ln lrs to be run with a second seed: of cells where two lrs have one run each, and where
        the valley as it is believed to be is no deeper at either than a run's noise. A third lr would be as lost."""
        posterior, runs, found = self.belief.posterior, self.belief.runs, {}
        for i, at in enumerate(self.points):
            mine = np.all(np.abs(runs.points - at) < 1e-8, axis=1) & np.isfinite(runs.loss)
            if mine.sum() == 2 and np.ptp(runs.log_lr[mine]) > 0.02:
                mean, _ = posterior.at(at[None])
                depth = math.exp(mean[1]) * valley(runs.log_lr[mine] - mean[0], posterior.k)[0]
                if depth.max() < posterior.noise:
                    found[i] = runs.log_lr[mine].tolist()
        return found

    def choices(self, slots: int, reserve: float = 0.0) -> Iterator[Choice]:
        """The next runs, best first, until `slots` are filled, the budget but for `reserve` (a share of it) is, or
        they are not worth their cost."""
        if not self.candidates:
            return
        design = Design(
            self.belief.posterior, self.points, self.costs, self.belief.target, begun=self.begun, again=self.again
        )
        left = 1 - reserve - self.problem.budget.share(self.history.spent)
        slots = min(slots, self.settings.max_trials - len(self.history))
        low, high = self.limits
        if self.belief.joint and slots > 0:
            yield from self._for_batch(design, left, low, high)
            return
        while slots > 0:
            choice = design.choose(left, low, high)
            if choice is None or not self.worth(choice, self.belief.posterior):
                return
            yield choice
            left -= choice.cost
            slots -= len(choice.log_lr)

    def _for_batch(self, design: Design, left: float, low: np.ndarray, high: np.ndarray) -> Iterator[Choice]:
        """The better of one choice for the lr and one for the batch, by expected loss saved per
        cost."""
        offers: list[tuple[float, list[Choice]]] = []
        mean, cov = design.mean[: len(self.points)], np.diag(design.cov)[: len(self.points)]
        if (lr := design.choose(left, low, high)) and self.worth(lr, self.belief.posterior):
            offers.append((self.value(lr, self.belief.posterior) / lr.cost, [lr]))
        pairs, which = np.unique(np.round(self.points[:, :2], 9), axis=0, return_inverse=True)
        which = which.reshape(-1)
        cells = np.column_stack([pairs, np.zeros(len(pairs))])
        costs = np.array([self.costs[which == i].min() for i in range(len(pairs))])
        h = math.exp(self.belief.posterior.mean[7])
        doubt = np.array([h * cov[which == i].min() for i in range(len(pairs))])
        over_b = Design(self.belief.batches, cells, costs, np.zeros(3), BATCH_STEP, doubt)
        widest = self.points[:, 2] + self.belief.origin[2]
        if (batch := over_b.choose(left, widest.min(), widest.max())) and self.worth(batch, self.belief.batches):
            own = np.flatnonzero(which == batch.cell)
            picked = {int(own[np.argmin(np.abs(widest[own] - b))]) for b in batch.log_lr}
            runs = [
                replace(
                    batch,
                    cell=i,
                    log_lr=(float(np.clip(mean[i], low[i], high[i])),),
                    cost=float(self.costs[i]),
                )
                for i in sorted(picked)
            ]
            offers.append((self.value(batch, self.belief.batches) / batch.cost, runs))
        if offers:
            yield from max(offers, key=lambda offer: offer[0])[1]

    @staticmethod
    def value(choice: Choice, posterior: Posterior) -> float:
        """Expected loss saved, as a fraction of the loss."""
        return math.exp(posterior.mean[7]) * choice.saved

    def worth(self, choice: Choice, posterior: Posterior) -> bool:
        """Whether the loss saved pays for the runs, in runs of the target."""
        saved = self.value(choice, posterior) / self.settings.exchange
        return saved * self.settings.uses * self.share_of_target >= choice.cost


def kin(run: RunConfig, other: RunConfig) -> bool:
    """Whether the two differ in nothing but lr, tokens, warmup and seed."""
    return replace(run, lr=other.lr, tokens=other.tokens, warmup=other.warmup, seed=other.seed) == other


def longer(run: RunConfig, other: RunConfig) -> bool:
    """Whether `other` is `run` for more tokens, with the same warmup: it can go on from the trunk of `run`."""
    return other.tokens > run.tokens and other.warmup == run.warmup and kin(run, other)
