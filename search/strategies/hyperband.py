"""Hyperband (Li et al., JMLR 18/16-558) over training tokens, each rung measured after a cooldown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from search.budget import Spending
from search.evidence.answers import calibration_cost, recommend_from_history
from search.evidence.edges import at_edge, focused, one_fidelity
from search.records import History, Proposal, Recommendation, Trial
from search.sampling import Sampler, sample_lrs
from search.shapes.ladder import warmup_within
from search.strategy import DONE, Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.schedule import decay_start

SHORTER = 1.25
"""Units may be so many times as short as asked for, or a calibration of a few steps more costs a whole bracket."""


def brackets(resource: int, eta: int) -> list[list[tuple[int, int]]]:
    """[(trials, resource units) by rung] by bracket, the most exploring first: the paper's table, in integers.

    n = ceil((s_max + 1) / (s + 1) * eta^s), n_i = floor(n * eta^-i), r_i = floor(R * eta^(i - s)).
    """
    s_max = 0
    while eta ** (s_max + 1) <= resource:
        s_max += 1
    table = []
    for s in range(s_max, -1, -1):
        n = -(-(s_max + 1) * eta**s // (s + 1))
        table.append([(n // eta**i, resource * eta**i // eta**s) for i in range(s + 1)])
    return table


@dataclass(frozen=True, kw_only=True)
class Hyperband(Strategy):
    """Brackets that trade trials against training tokens; survivors go on from their checkpoints.

    A rung's loss is that of a whole wsd run as long as the rung: the trunk (constant lr) goes on from
    promotion to promotion, and each rung branches off a cooldown. So rungs are compared annealed. A rung too short for
    the target's warmup has less of it; what is promoted from there starts again, with its own.
    """

    reduction_factor: int = 3
    """eta: keep one trial in this many at each rung."""
    units: int = 100
    """Resource units that the target's tokens are divided into; R = units trains as long as the target."""
    max_resource: int | None = None
    """R, in units; None: the largest whose plan fits the budget."""
    cooldown: float = 0.2
    """Fraction of a rung that is its cooldown; 0: the textbook, the target's own schedule cut short."""
    sampler: Sampler = "qmc"
    """How lrs are drawn in their range; tpe and gp learn from earlier brackets, at one fidelity."""
    focus: float = 4.0
    """Later brackets draw within this factor of the best lr so far, beyond --lr-range where it lies at an end; 0: from
    the whole range, as in the paper. Loss has one valley in lr, so the rest of the range is known to be worse."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"lengths" if self.cooldown else "cuts_short"})

    def plan(self, history: History) -> list[Stage]:
        target = history.problem.target
        stages = []
        for b, rungs in enumerate(self._layout(history)):
            for i, (n, _) in enumerate(rungs):
                cost = self._cost(history, rungs, i) * n
                tokens = n * self._tokens_trained(history, rungs, i)
                stages.append(
                    Stage(
                        name=f"bracket {b + 1} rung {i + 1}",
                        trials=n,
                        parameters=parameters(target.model).total,
                        tokens=tokens,
                        cost=cost,
                        run=self._run(history, rungs, i),
                        note=f"{self._horizon(history, rungs, i):,} each",
                        waits=i > 0 or self._learns,
                    )
                )
        return stages

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        layout, known = self._layout(history), history.known
        new: list[Proposal] = []
        for b in range(len(layout)):
            rungs = list(self._rungs(history, layout, b))
            new += [p for rung in rungs for p in rung if p.id not in known]
            complete = len(rungs) == len(layout[b]) and all(history.get(p.id) for p in rungs[-1])
            if not complete and self._learns:
                break
        if not new and not history.running:
            new = self._beyond_the_edge(history, layout)
        return new[:slots] if new or history.running else DONE

    @property
    def _learns(self) -> bool:
        """Each bracket from those before it."""
        return bool(self.focus) or self.sampler in ("tpe", "gp")

    def recommend(self, history: History) -> Recommendation:
        return recommend_from_history(history)

    def keeps(self, history: History) -> set[str]:
        """What a rung that is not complete may promote, and the parents of what it still trains."""
        layout, kept = self._layout(history), set[str]()
        for b in range(len(layout)):
            if not any(t.tags.get("bracket") == b for t in history):
                continue
            *_, rung = self._rungs(history, layout, b)
            ended = {p.id for p in rung if history.get(p.id) is not None}
            if len(ended) < len(rung):
                kept |= ended | {p.parent for p in rung if p.parent and p.id not in ended}
        return {t.id for t in history if t.trunk is not None and t.id in kept}

    # --- the table ----------------------------------------------------------------------------------------------

    def _layout(self, history: History) -> list[list[tuple[int, int]]]:
        return brackets(self._settled(history).max_resource or 1, self.reduction_factor)

    def _settled(self, history: History) -> Hyperband:
        """With R and the unit that fit the budget. Depends on nothing that changes in a search."""
        if self.reduction_factor < 2:
            raise UserError(f"--hyperband.reduction-factor {self.reduction_factor} must be at least 2.")
        if self.max_resource is not None:
            return self
        key = (self, calibration_cost(history))
        if key not in history.problem.memo:
            history.problem.memo[key] = self._largest(history)
        return history.problem.memo[key]

    def _largest(self, history: History) -> Hyperband:
        """The largest R that the budget holds beside the calibration. One more may need a bracket more, and half of the
        budget be left: then the unit grows until it is used, for longer runs tell more."""
        # Units below one step would make rungs that differ only in name.
        most = min(self.units, history.problem.target.steps)
        shortest = replace(self, units=round(SHORTER * self.units))
        fits = (plan for r in range(most, 0, -1) if (plan := replace(shortest, max_resource=r))._affordable(history))
        if largest := next(fits, None):
            wider = (replace(largest, units=units) for units in range(largest.max_resource or 1, shortest.units))
            return next((plan for plan in wider if plan._affordable(history)), largest)
        budget, smallest = history.problem.budget, replace(self, max_resource=1)._bill(history)
        raise UserError(
            "The budget is too small for one trial of hyperband: the smallest plan (one trial of "
            f"{history.problem.target.tokens / self.units:,.0f} tokens) needs {budget.share(smallest):.1f} times as "
            f"much. Raise the budget to {budget.needed(smallest)}."
        )

    def _affordable(self, history: History) -> bool:
        """With a trial of the longest to spare, where there are several: for one cut off, or one beyond the edge."""
        *_, last = brackets(self.max_resource or 1, self.reduction_factor)
        spare = self._cost(history, last, 0) * (last[0][0] > 1)
        return history.problem.budget.allows(self._bill(history) + spare)

    def _bill(self, history: History) -> Spending:
        return calibration_cost(history) + self._total(history, brackets(self.max_resource or 1, self.reduction_factor))

    def _total(self, history: History, layout: list[list[tuple[int, int]]]) -> Spending:
        total = Spending()
        for rungs in layout:
            for i, (n, _) in enumerate(rungs):
                total += self._cost(history, rungs, i) * n
        return total

    def _cost(self, history: History, rungs: list[tuple[int, int]], i: int) -> Spending:
        run = self._run(history, rungs, i)
        return history.problem.cost.forecast(run, self._tokens_trained(history, rungs, i))

    def _tokens_trained(self, history: History, rungs: list[tuple[int, int]], i: int) -> float:
        start = self._trunk(history, rungs, i - 1) if self._goes_on(history, rungs, i) else 0
        return self._horizon(history, rungs, i) - start

    def _goes_on(self, history: History, rungs: list[tuple[int, int]], i: int) -> bool:
        """Whether rung i trains on from the one before: trunks are alike where their warmups are."""
        return 0 < i < len(rungs) and self._run(history, rungs, i).warmup == self._run(history, rungs, i - 1).warmup

    def _unit(self, history: History) -> float:
        return history.problem.target.tokens / self._settled(history).units

    def _horizon(self, history: History, rungs: list[tuple[int, int]], i: int) -> int:
        target = history.problem.target
        return target.steps_at(rungs[i][1] * self._unit(history)) * target.batch

    def _trunk(self, history: History, rungs: list[tuple[int, int]], i: int) -> int:
        """Tokens at which a trial of this rung leaves its trunk."""
        run, horizon = self._run(history, rungs, i), self._horizon(history, rungs, i)
        return min(decay_start(run) * run.batch, horizon)

    def _run(self, history: History, rungs: list[tuple[int, int]], i: int) -> RunConfig:
        target = history.problem.target
        if not self.cooldown:
            return target
        tokens, memo = self._horizon(history, rungs, i), history.problem.memo
        warmup = warmup_within(target, tokens)
        key = ("run", self.cooldown, tokens, warmup)
        if key not in memo:  # a hundred trials of a rung have it alike
            memo[key] = replace(target, schedule="wsd", cooldown=self.cooldown, tokens=tokens, warmup=warmup)
        return memo[key]

    # --- who runs -----------------------------------------------------------------------------------------------

    def _rungs(self, history: History, layout: list[list[tuple[int, int]]], b: int) -> Iterator[list[Proposal]]:
        """The proposals of bracket b, a list a rung, as far as they are decided: all but the last rung have ended."""
        rungs = layout[b]
        wanted = list(self._first_rung(history, layout, b))
        yield wanted
        for i in range(1, len(rungs)):
            ended = [t for p in wanted if (t := history.get(p.id)) is not None]
            if len(ended) < len(wanted):
                return
            survivors = sorted((t for t in ended if t.loss is not None), key=lambda t: (t.loss, t.id))
            wanted = [self._promote(history, rungs, b, i, t) for t in survivors[: rungs[i][0]]]
            yield wanted

    def _first_rung(self, history: History, layout: list[list[tuple[int, int]]], b: int) -> Iterator[Proposal]:
        problem, rungs = history.problem, layout[b]
        observed = one_fidelity([t for t in history if t.tags.get("bracket", b) < b])
        lr_range = focused(problem.lr_range, observed, self.focus)
        lrs = sample_lrs(rungs[0][0], lr_range, self.sampler, (problem.seed, b), observed)
        for k, lr in enumerate(lrs):
            yield self._proposal(history, rungs, b, 0, k, lr)

    def _promote(self, history: History, rungs: list[tuple[int, int]], b: int, i: int, parent: Trial) -> Proposal:
        proposal = self._proposal(history, rungs, b, i, parent.tags["config"], parent.lr)
        if parent.trunk is None or not self._goes_on(history, rungs, i):
            return proposal  # without a checkpoint (a recorded sweep, say), or with more warmup, it starts again
        return replace(proposal, parent=parent.id, start=parent.trunk)

    def _proposal(self, history: History, rungs: list[tuple[int, int]], b: int, i: int, k: int, lr: float) -> Proposal:
        return Proposal(
            id=f"b{b + 1}-r{i + 1}-{k + 1:03d}",
            run=replace(self._run(history, rungs, i), lr=lr),
            horizon=self._horizon(history, rungs, i),
            keep=self._goes_on(history, rungs, i + 1),
            tags={"bracket": b, "rung": i, "config": k, "stage": f"bracket {b + 1} rung {i + 1}"},
        )

    def _beyond_the_edge(self, history: History, layout: list[list[tuple[int, int]]]) -> list[Proposal]:
        """One more lr at the longest horizon, x2 beyond the end of the tried lrs where the optimum lies at that end."""
        last = [[layout[-1][-1]]]
        extra = sum(t.tags.get("bracket") == len(layout) for t in history)
        longest = self._horizon(history, last[0], 0)
        observed = [(t.lr, t.loss) for t in history if t.horizon == longest and t.status in ("finished", "diverged")]
        edge = at_edge(observed)
        if edge is None or extra >= 4:
            return []
        lrs = [lr for lr, _ in observed]
        lr = min(lrs) / 2 if edge == "low" else max(lrs) * 2
        proposal = self._proposal(history, last[0], len(layout), 0, extra, lr)
        return [replace(proposal, tags={**proposal.tags, "stage": "beyond the edge"})]
