"""What others do with the same money, as strategies: the yardsticks of `hpt.compare`. No command
offers them for a search."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scaling.optimum import fit_optimum
from scaling.published import Law, Scale, out_of_range
from search.budget import Spending
from search.records import History, Problem, Proposal, Recommendation, Trial
from search.sampling import Sampler, sample_lrs
from search.shapes.menu import point
from search.strategy import DONE, Done, Stage, Strategy
from trainer.architecture.counts import parameters
from trainer.config import RunConfig


def _stage(problem: Problem, run: RunConfig, name: str, trials: int) -> Stage:
    cost = problem.cost.forecast(run, run.tokens) * trials
    size = parameters(run.model).total
    return Stage(run=run, name=name, trials=trials, parameters=size, tokens=float(trials * run.tokens), cost=cost)


def _affordable(problem: Problem, run: RunConfig) -> int:
    """Trials of `run` that the whole budget holds."""
    share = problem.budget.share(problem.cost.forecast(run, run.tokens))
    return int(1 / share + 1e-9)


def _proposal(run: RunConfig, lr: float, name: str) -> Proposal:
    return Proposal(id=name, run=replace(run, lr=float(f"{lr:.4g}")), horizon=run.tokens)


def _best(trials: list[Trial]) -> Recommendation:
    """The lr of the lowest loss seen, as the textbook has it."""
    done = [t for t in trials if t.loss is not None]
    if not done:
        return Recommendation(lr=None, reasons=("No trial has finished.",))
    winner = min(done, key=lambda t: t.loss or math.inf)
    return Recommendation(lr=winner.lr, law="the best trial", trials=tuple(t.id for t in done))


@dataclass(frozen=True, kw_only=True)
class AtTarget(Strategy):
    """The target itself, whole, at lrs of Optuna's samplers: what a search without proxies
    costs."""

    sampler: Sampler = "random"

    def plan(self, history: History) -> list[Stage]:
        problem = history.problem
        return [_stage(problem, problem.target, self.sampler, _affordable(problem, problem.target))]

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        problem, number = history.problem, len(history.trials) + len(history.running)
        count = min(slots, _affordable(problem, problem.target) - number)
        if count <= 0:
            return [] if history.running else DONE
        seen = tuple((t.lr, t.loss) for t in history if t.status in ("finished", "diverged"))
        seed = (problem.seed, number)
        lrs = sample_lrs(count, problem.lr_range, self.sampler, seed, seen)
        return [_proposal(problem.target, lr, f"{self.sampler}-{number + i}") for i, lr in enumerate(lrs)]

    def recommend(self, history: History) -> Recommendation:
        return _best(history.finished)


@dataclass(frozen=True, kw_only=True)
class Halving(Strategy):
    """Successive halving (arXiv 1502.07943) at the target's size over its recorded horizons, each a
    run of its own.

    The field is the largest the budget holds; a rung keeps 1 in `reduction_factor`, and at least
    one reaches the end.
    """

    reduction_factor: int = 3

    def plan(self, history: History) -> list[Stage]:
        rungs = self._rungs(history.problem)
        return [_stage(history.problem, run, f"rung {i + 1}", n) for i, (run, n) in enumerate(rungs)]

    def _rungs(self, problem: Problem) -> list[tuple[RunConfig, int]]:
        """(run, trials) by rising horizon; empty when the budget holds no field at all."""
        size = parameters(problem.target.model).non_embedding
        menu = [r for r in problem.proxies or (problem.target,) if parameters(r.model).non_embedding == size]
        runs = sorted(menu, key=lambda r: r.tokens)
        best: list[tuple[RunConfig, int]] = []
        for field in range(2, 1000):
            rungs = [(run, max(1, field // self.reduction_factor**i)) for i, run in enumerate(runs)]
            bill = sum((problem.cost.forecast(r, r.tokens) * n for r, n in rungs), Spending())
            if not problem.budget.allows(bill):
                break
            best = rungs
        return best

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        problem, new = history.problem, []
        lrs: list[float] = []
        for i, (run, count) in enumerate(self._rungs(problem)):
            if i == 0:
                lrs = sample_lrs(count, problem.lr_range, "random", (problem.seed,))
            wanted = [_proposal(run, lr, f"rung-{i}-{j}") for j, lr in enumerate(lrs[:count])]
            new += [p for p in wanted if p.id not in history.known]
            ended = [t for p in wanted if (t := history.get(p.id)) is not None]
            if len(ended) < len(wanted):
                break
            ranked = sorted(ended, key=lambda t: math.inf if t.loss is None else t.loss)
            lrs = [t.lr for t in ranked]
        return new[:slots] if new else [] if history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        longest = max((t.horizon for t in history.finished), default=0)
        return _best([t for t in history.finished if t.horizon == longest])


@dataclass(frozen=True, kw_only=True)
class CopySmallest(Strategy):
    """A sweep at the cheapest proxy of the target's batch; its best lr is the answer, unscaled."""

    trials: int = 8

    def plan(self, history: History) -> list[Stage]:
        run = self._run(history.problem)
        return [_stage(history.problem, run, "sweep", min(self.trials, _affordable(history.problem, run)))]

    @staticmethod
    def _run(problem: Problem) -> RunConfig:
        batch = point(problem.target)[2]
        menu = problem.proxies or (problem.target,)
        return min(
            menu,
            key=lambda r: (problem.cost.forecast(r, r.tokens).flops, abs(point(r)[2] - batch)),
        )

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        problem = history.problem
        run = self._run(problem)
        count = min(self.trials, _affordable(problem, run))
        low, high = (math.log(v) for v in problem.lr_range)
        lrs = [math.exp(low + (high - low) * (i + 0.5) / count) for i in range(count)]
        wanted = [_proposal(run, lr, f"copy-{i}") for i, lr in enumerate(lrs)]
        new = [p for p in wanted if p.id not in history.known]
        return new[:slots] if new else [] if history.running else DONE

    def recommend(self, history: History) -> Recommendation:
        done = [t for t in history.finished if t.loss is not None]
        lost = [t.lr for t in history if t.status == "diverged"]
        if len(done) < 3:
            return Recommendation(lr=None, reasons=("Fewer than 3 trials have finished.",))
        found = fit_optimum([t.lr for t in done], [t.loss or 0.0 for t in done], diverged=lost)
        assert found is not None
        ends = [math.exp(found.log_lr + q * found.sd) for q in (-1.645, -0.674, 0.674, 1.645)]
        return Recommendation(
            lr=math.exp(found.log_lr),
            interval50=(ends[1], ends[2]),
            interval90=(ends[0], ends[3]),
            law="copied from the cheapest proxy",
            trials=tuple(t.id for t in done),
        )


@dataclass(frozen=True, kw_only=True)
class Formula(Strategy):
    """One published law, taken at its word: no trials."""

    law: Law

    def plan(self, history: History) -> list[Stage]:
        return []

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        return DONE

    def recommend(self, history: History) -> Recommendation:
        target = history.problem.target
        model, counts = target.model, parameters(target.model)
        scale = Scale(
            n_total=counts.total,
            n_non_embedding=counts.non_embedding,
            n_layers=model.depth,
            width=model.width,
            context=model.context,
            D=target.tokens,
            B=target.batch,
        )
        outside = out_of_range(self.law, scale)
        return Recommendation(lr=self.law.value(scale), law=self.law.formula, reasons=(outside,) if outside else ())


@dataclass(frozen=True, kw_only=True)
class Fixed(Strategy):
    """One lr for everything: no trials."""

    lr: float

    def plan(self, history: History) -> list[Stage]:
        return []

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        return DONE

    def recommend(self, history: History) -> Recommendation:
        return Recommendation(lr=self.lr, law="a rule of thumb")
