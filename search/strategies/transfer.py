"""hpt's own strategy: the runs that tell most about the target's best lr for their cost, and no
more than they are worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from search.advice import advise
from search.budget import Spending
from search.knowledge import Knowledge
from search.records import History, Problem, Proposal, Recommendation
from search.strategy import DONE, Done, Stage, Strategy
from trainer.config import RunConfig
from trainer.counts import parameters
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Transfer(Strategy):
    """Cost-constrained c-optimal design on the batch-conditional law of ln lr*(N, D, B)."""

    search: Literal["lr", "lr,batch"] = "lr"
    """What is sought: the lr at the target's batch, or the batch as well."""
    sizes: tuple[float, ...] = (1 / 64, 1 / 16, 1 / 4, 1.0)
    """Shares of the target's parameters that proxies may have, where the problem has no menu."""
    horizons: tuple[float, ...] = (1 / 16, 1 / 4, 1.0)
    """Shares of the target's tokens, likewise."""
    exchange: float = 0.05
    """Loss that more compute brings, as a fraction of the loss per e-fold of compute: a gap of
    delta at the target is worth delta / exchange of its cost. Compute-optimal ladders show 0.05
    near 2.5 nats (the loss falls by 0.13 per e-fold)."""
    uses: float = 100.0
    """Runs as large as the target that the answer will serve, other data and seeds included. The
    search stops when the next trials cost more than `uses` times what they are expected to save;
    infinity: when the budget is spent. The budget is what may be spent, so this is generous: 1 stops
    at a few percent of a target run, where 0.1 % of the loss is still open."""
    max_trials: int = 200

    def plan(self, history: History) -> list[Stage]:
        """The design as it would go if every trial ended as expected."""
        work = self._knowledge(history)
        bill: dict[RunConfig, list[float]] = {}
        for choice in work.choices(self.max_trials):
            bill.setdefault(work.candidates[choice.cell], []).extend(choice.log_lr)
        if not bill and not history.trials:
            raise UserError(
                "The budget does not hold two trials of the cheapest proxy: raise it, "
                "or allow smaller sizes and horizons."
            )
        return [self._stage(work.problem, run, lrs) for run, lrs in bill.items()]

    @staticmethod
    def _stage(problem: Problem, run: RunConfig, log_lr: list[float]) -> Stage:
        one, count = problem.cost.forecast(run, run.tokens), len(log_lr)
        spread = f"lr {math.exp(min(log_lr)):.2g} to {math.exp(max(log_lr)):.2g}"
        return Stage(
            name=f"{run.model.depth}x{run.model.width}, {run.tokens:.3g} tokens, batch {run.batch}",
            trials=count,
            parameters=parameters(run.model).total,
            tokens=float(count * run.tokens),
            run=run,
            cost=Spending(count * one.seconds, count * one.flops, count * one.usd),
            note=f"{spread}; later ones move with what the earlier show",
        )

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        if slots <= 0:
            return []
        work = self._knowledge(history)
        proposals: list[Proposal] = []
        for choice in work.choices(slots):
            for log_lr in choice.log_lr:
                number = len(history.trials) + len(history.running) + len(proposals)
                run = replace(work.candidates[choice.cell], lr=float(f"{math.exp(log_lr):.4g}"))
                tags = {"expected_sd": round(math.sqrt(choice.variance), 4)}
                proposals.append(Proposal(id=f"transfer-{number:03d}", run=run, horizon=run.tokens, tags=tags))
        if proposals:
            return proposals[:slots]
        return [] if history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        return advise(self._knowledge(history))

    def _knowledge(self, history: History) -> Knowledge:
        return Knowledge(self, history)
