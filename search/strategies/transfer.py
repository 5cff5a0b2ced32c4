"""hpt's own strategy: the runs that tell most about the target's best lr for their cost, and no
more than they are worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from search.budget import Spending
from search.records import History, Problem, Proposal, Recommendation
from search.strategy import DONE, Done, Stage, Strategy
from search.transfer.advice import advise
from search.transfer.belief import Belief
from search.transfer.choosing import Chooser, longer
from search.transfer.second_setting import SETTINGS, Second
from search.transfer.settings import TransferSettings
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.errors import UserError

NEAR = 0.2
"""How far (in ln lr) a wanted lr may be moved for a trunk's sake; brackets are 0.69 apart and more."""


@dataclass(frozen=True, kw_only=True)
class Transfer(TransferSettings, Strategy):
    """Cost-constrained c-optimal design on the batch-conditional law of ln lr*(N, D, B)."""

    grows: ClassVar[bool] = True

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"lengths"})

    def plan(self, history: History) -> list[Stage]:
        """The design as it would go if every trial ended as expected, and what that leaves of the budget."""
        problem, chooser = history.problem, Chooser(Belief(self, _sorted(history, None)))
        bill: dict[RunConfig, list[float]] = {}
        second = self._second(chooser)
        for choice in chooser.choices(self.max_trials, second.reserve if second else 0.0):
            bill.setdefault(chooser.candidates[choice.cell], []).extend(choice.log_lr)
        if not bill and not history.finished:
            raise UserError(_too_small(chooser))
        stages = [self._stage(problem, run, lrs) for run, lrs in bill.items()]
        if second and second.run and not second.trials:
            stages.append(second.stage())
        total = sum((stage.cost for stage in stages), history.spent)
        rest = Spending(
            seconds=max(0.0, (problem.budget.hours or 0) * 3600 - total.seconds),
            flops=max(0.0, (problem.budget.flops or 0) - total.flops),
            usd=max(0.0, (problem.budget.usd or 0) - total.usd),
        )
        note = "kept for what the trials suggest; all lrs move with it"
        return [*stages, Stage(name="open", trials=0, parameters=0, tokens=0, cost=rest, note=note)]

    @staticmethod
    def _stage(problem: Problem, run: RunConfig, log_lr: list[float]) -> Stage:
        one, count = problem.cost.forecast(run, run.tokens), len(log_lr)
        spread = f"lr {math.exp(min(log_lr)):.2g} to {math.exp(max(log_lr)):.2g}"
        return Stage(
            name=_stage_name(run, problem),
            trials=count,
            parameters=parameters(run.model).total,
            tokens=float(count * run.tokens),
            run=run,
            cost=Spending(count * one.seconds, count * one.flops, count * one.usd),
            note=spread,
        )

    def shapes(self, history: History) -> list[RunConfig]:
        """All candidates, not those of the plan alone: which are worth their time is known once they are timed."""
        runs = Chooser(Belief(self, history)).candidates
        return list({run.model: run for run in runs}.values())

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        """Rounds of `together` trials, each chosen when the one before has ended.

        So the search is the same on one slot or many, and whatever ends first.
        """
        if not any("setting" in x.tags for x in (*history.trials, *history.running)):
            current = max((x.tags.get("round", 0) for x in (*history.trials, *history.running)), default=0)
            for number in (current, current + 1):
                new = [p for p in self._round(history, number) if p.id not in history.known]
                if new:
                    return new[:slots]
                if history.running:
                    return []
        second = self._second(Chooser(Belief(self, _sorted(history, None))))
        new = second.ask(history) if second else []
        return new[:slots] if new or history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        chooser = Chooser(Belief(self, _sorted(history, None)))
        answer, second = advise(chooser.belief), self._second(chooser)
        return second.advise(answer) if second else answer

    def _second(self, chooser: Chooser) -> Second | None:
        name = self.search.removeprefix("lr").removeprefix(",")
        return Second(name, chooser) if name in SETTINGS else None

    def _round(self, history: History, number: int) -> list[Proposal]:
        """The trials of a round, whichever of them were asked for already."""
        chooser, proposals = Chooser(Belief(self, _sorted(history, number))), []
        second = self._second(chooser)
        for choice in chooser.choices(self.together, second.reserve if second else 0.0):
            for log_lr in choice.log_lr:
                name = f"transfer-{number:02d}-{len(proposals)}"
                run = replace(chooser.candidates[choice.cell], lr=float(f"{math.exp(log_lr):.4g}"))
                # The same run with the same seed would say nothing new: training is deterministic.
                done = [*(t.run for t in chooser.history), *(p.run for p in proposals)]
                run = replace(run, seed=run.seed + sum(_same(run, other) for other in done))
                tags = {"stage": _stage_name(run, history.problem), "round": number}
                tags["expected_sd"] = round(math.sqrt(choice.variance), 4)
                keep = self._trunked(run) and any(longer(run, other) for other in chooser.candidates)
                proposal = Proposal(id=name, run=run, horizon=run.tokens, tags=tags, keep=keep)
                proposals.append(self._continued(proposal, chooser.history, proposals))
        return proposals

    def _trunked(self, run: RunConfig) -> bool:
        return self.trunks and run.schedule == "wsd"

    def _continued(self, proposal: Proposal, history: History, beside: list[Proposal]) -> Proposal:
        """From the longest trunk that will do, where there is one."""
        run = proposal.run
        parents = [
            t
            for t in history
            if t.trunk and longer(t.run, run) and t.run.seed == run.seed and abs(math.log(t.lr / proposal.lr)) < NEAR
        ]
        if not self._trunked(run) or not parents:
            return proposal
        parent = max(parents, key=lambda t: (t.trunk, t.id))
        run = replace(run, lr=parent.lr)
        if any(_same(run, other) for other in (*(t.run for t in history), *(p.run for p in beside))):
            return proposal
        return replace(proposal, run=run, parent=parent.id, start=parent.trunk or 0)


def _too_small(chooser: Chooser) -> str:
    """What a first bracket would take."""
    problem = chooser.problem
    forecasts = [problem.cost.forecast(run, run.tokens) for run in chooser.menu]
    if not forecasts:
        return "No run smaller than the target is long enough for a trial: give it more tokens, or a smaller batch."
    cheapest = min(forecasts, key=problem.budget.share)
    return (
        "The budget does not hold two trials of the cheapest proxy, which need "
        f"{problem.budget.needed(cheapest * 2)} or more: raise it, or allow smaller --transfer.sizes and "
        "--transfer.horizons."
    )


def _stage_name(run: RunConfig, problem: Problem) -> str:
    batch = f", batch {run.batch:,}" if run.batch != problem.target.batch else ""
    unit, letter = next(((u, c) for u, c in ((1e9, "B"), (1e6, "M")) if run.tokens >= u), (1e3, "k"))
    return f"{run.model.depth}x{run.model.width}, {run.tokens / unit:.3g}{letter} tokens{batch}"


def _same(one: RunConfig, other: RunConfig) -> bool:
    """Whether two runs differ in nothing but the seed and a hair of lr."""
    close = abs(math.log((one.lr or 1.0) / (other.lr or 1.0))) < 0.02
    return close and replace(one, seed=0, lr=None) == replace(other, seed=0, lr=None)


def _sorted(history: History, before: int | None) -> History:
    """The trials of the rounds before this one (None: all) in an order that does not depend on which ended first."""
    past = [t for t in history if before is None or t.tags.get("round", -1) < before]
    return replace(history, trials=tuple(sorted(past, key=lambda t: t.id)), running=())
