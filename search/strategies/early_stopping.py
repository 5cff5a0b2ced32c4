"""Early stopping: the target itself at several lrs, each for a fraction of its horizon."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from search.evidence.answers import calibration_cost, recommend_from_history
from search.evidence.cells import cells
from search.evidence.sweeps import shortened
from search.records import History, Proposal, Recommendation
from search.sampling import Sampler, sample_lrs
from search.strategy import DONE, Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Strategy):
    """n log-uniform lrs around a usual one, stopped early; the best one's neighbourhood is fitted."""

    grows: ClassVar[bool] = True
    trials: int = 10
    """lrs to try; fewer when the budget holds no more."""
    fraction: float = 0.1
    """Of the target's tokens that a trial trains."""
    centre: float = 6e-4
    """The middle of the lrs; GPT-3's for 125M parameters."""
    span: float = 10.0
    """lrs lie between centre / span and centre x span (--lr-range is not used)."""
    sampler: Sampler = "random"
    """random, qmc, or tpe and gp, which choose one after the other."""
    anneal: bool = False
    """A complete schedule of the shorter length instead of the beginning of the target's."""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or self.trials < 1 or self.span <= 1 or self.centre <= 0:
            raise UserError(
                "--early-stopping needs 0 < fraction <= 1, at least one trial, span > 1 and a positive centre."
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"lengths" if self.anneal else "cuts_short"})

    def plan(self, history: History) -> list[Stage]:
        run, n = self._run(history), self._affordable(history)
        cost = history.problem.cost.forecast(run, self._horizon(history))
        return [
            Stage(
                name="early stopping",
                trials=n,
                parameters=parameters(run.model).total,
                tokens=n * self._horizon(history),
                cost=cost * n,
                run=run,
                note=f"{self._horizon(history):,} tokens each",
            )
        ]

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        learns = self.sampler in ("tpe", "gp")
        wanted = self._wanted(history, learns)
        new = [p for p in wanted if p.id not in history.known]
        if learns:  # one after the other: each is drawn from all that ended before it
            new = [] if history.running else new[:1]
        return new[:slots] if new or history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        return recommend_from_history(history)

    def _wanted(self, history: History, learns: bool) -> list[Proposal]:
        n, lr_range = self._affordable(history), (self.centre / self.span, self.centre * self.span)
        seed = history.problem.seed
        if not learns:
            lrs = sample_lrs(n, lr_range, self.sampler, (seed,))
            return [self._proposal(history, k, lr) for k, lr in enumerate(lrs)]
        done = sum(t.tags.get("stage") == "early stopping" for t in history)
        if done >= n:
            return []
        observed = [(t.lr, t.loss) for cell in cells(history) for t in cell.trials]
        if done < 3:  # a model needs points first
            return [self._proposal(history, done, sample_lrs(done + 1, lr_range, "qmc", (seed,))[-1])]
        return [self._proposal(history, done, sample_lrs(1, lr_range, self.sampler, (seed, done), observed)[0])]

    def _proposal(self, history: History, k: int, lr: float) -> Proposal:
        return Proposal(
            id=f"es-{k + 1:03d}",
            run=replace(self._run(history), lr=lr),
            horizon=self._horizon(history),
            tags={"stage": "early stopping", "config": k},
        )

    def _horizon(self, history: History) -> int:
        target = history.problem.target
        return target.steps_at(self.fraction * target.tokens) * target.batch

    def _run(self, history: History) -> RunConfig:
        target = history.problem.target
        if not self.anneal:
            return target
        return shortened(target, self.fraction * target.tokens)

    def _affordable(self, history: History) -> int:
        """Trials that the budget holds beside the calibration, at most `trials`."""
        before = calibration_cost(history)
        cost = history.problem.cost.forecast(self._run(history), self._horizon(history))
        for n in range(self.trials, 0, -1):
            if history.problem.budget.allows(before + cost * n):
                return n
        budget = history.problem.budget
        raise UserError(
            f"The budget is too small for one trial of early-stopping ({self._horizon(history):,} tokens): raise it to "
            f"{budget.needed(before + cost)}, or lower --early-stopping.fraction."
        )
