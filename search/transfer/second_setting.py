"""A second setting beside the lr, weight decay or warmup: a short sweep near the target, at the lr found by then.

The best warmup is carried over in tokens at one batch, that is in steps: what it is for takes steps, about
2 / (1 - beta2) of them (Ma and Yarats, arXiv 1910.04209), however long the run. The best weight decay is carried over
as its timescale B / (lr weight_decay D), which falls with tokens a parameter as in Power Lines (arXiv 2505.13738,
scaling.published). The lr was found at the target's own decay, so what is found is their product; the two are not
searched jointly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from scaling.optimum import Optimum, fit_optimum
from scaling.published import weight_decay
from search.evidence.edges import at_edge
from search.records import History, Proposal, Recommendation, point
from search.strategy import Stage
from search.transfer.choosing import Chooser
from trainer.architecture.counts import parameters
from trainer.config import RunConfig

SHARE = 0.35
"""Of the budget, at most, for the sweep; the rest finds the lr first."""
FACTORS = (1.0, 1 / 4, 4.0, 1 / 2, 2.0)
"""Of the target's own value (or of the setting's default, where that is 0)."""
BEYOND = 2  # further values, where the best is at an end


@dataclass(frozen=True)
class Setting:
    name: str
    get: Callable[[RunConfig], float]
    put: Callable[[RunConfig, float], RunConfig]
    default: Callable[[RunConfig], float]
    """Where the target's own is 0."""
    highest: Callable[[RunConfig], float]
    said: Callable[[float], str]
    carry: Callable[[float, RunConfig, RunConfig], float]
    """(best value at a run, that run with its lr, target with its lr) -> value for the target."""


def _carried_decay(value: float, run: RunConfig, target: RunConfig) -> float:
    def law(one: RunConfig) -> float:
        assert one.lr is not None
        return weight_decay(parameters(one.model).total, one.tokens, one.batch, one.lr)

    return value * law(target) / law(run)


SETTINGS = {
    "weight_decay": Setting(
        "weight_decay", lambda run: run.weight_decay, lambda run, v: replace(run, weight_decay=v), lambda _: 0.1,
        lambda _: math.inf, "{:.3g}".format, _carried_decay,
    ),
    "warmup": Setting(
        "warmup", lambda run: run.warmup, lambda run, v: replace(run, warmup=round(v)), lambda run: 0.02 * run.tokens,
        lambda run: 0.5 * run.tokens, "{:,.0f} tokens".format, lambda value, run, target: value,
    ),
}  # fmt: skip


class Second:
    """What is asked and answered of one setting; derived from a history like `Belief`."""

    def __init__(self, name: str, chooser: Chooser) -> None:
        self.setting, self.chooser, self.target = SETTINGS[name], chooser, chooser.problem.target
        self.trials = [t for t in chooser.history if t.tags.get("setting") == name]

    @property
    def run(self) -> RunConfig | None:
        """Where the sweep is made, without lr: the dearest run near the target's tokens a parameter that may be had
        so often and has room for twice the target's own value; None where there is none."""
        if self.trials:
            return replace(self.trials[0].run, lr=None)
        k, times = self.chooser, len(FACTORS) + BEYOND
        if k.problem.proxies is not None:  # recorded runs: their settings are what they are
            return None
        runs = [
            (self.setting.highest(run) < 2 * self._base, far, cost, run)
            for run, cost in zip(k.candidates, k.costs, strict=True)
            if run.batch == self.target.batch and cost * times <= SHARE
            for far in [abs(math.log(ratio(run) / ratio(self.target))) > math.log(4.0)]
        ]
        return min(runs, key=lambda r: (r[0], r[1], -r[2]))[3] if runs else None

    @property
    def _base(self) -> float:
        return self.setting.get(self.target) or self.setting.default(self.target)

    @property
    def reserve(self) -> float:
        """Share of the budget that the sweep will take."""
        if self.run is None or self.trials:
            return 0.0
        one = self.chooser.problem.cost.forecast(self.run, self.run.tokens)
        return (len(FACTORS) + BEYOND) * self.chooser.problem.budget.share(one)

    def stage(self) -> Stage:
        run, count = self.run, len(FACTORS) + BEYOND
        assert run is not None
        return Stage(
            name=self.setting.name.replace("_", " "),
            trials=count,
            parameters=parameters(run.model).total,
            tokens=float(count * run.tokens),
            cost=self.chooser.problem.cost.forecast(run, run.tokens) * count,
            run=run,
            note=f"{run.tokens:,} tokens each, at the lr found by then; {BEYOND} only where the best is at an end",
            waits=True,
        )

    def ask(self, history: History) -> list[Proposal]:
        """The whole sweep, then a value beyond its end where the best one is there."""
        if self.run is None or not self.chooser.belief.runs.loss.size:
            return []
        values = self._values()
        if all(self._id(k) in history.known for k in range(len(values))):
            edge = at_edge(self.observed) if len(self.trials) < len(FACTORS) + BEYOND else None
            if edge is None or history.running:
                return []
            tried = [v for v, _ in self.observed]
            values += [min(tried) / 2] if edge == "low" else [min(max(tried) * 2, self.setting.highest(self.run))]
        lr = self.trials[0].lr if self.trials else self._lr(self.run)
        stage = {"stage": self.setting.name.replace("_", " "), "setting": self.setting.name}
        return [
            Proposal(
                id=self._id(k), run=self.setting.put(replace(self.run, lr=lr), v), horizon=self.run.tokens, tags=stage
            )
            for k, v in enumerate(values)
            if self._id(k) not in history.known
        ]

    def _values(self) -> list[float]:
        """Tried ones in the order they were asked for, else the sweep's; warmup may not exceed half a run."""
        highest = self.setting.highest(self.run or self.target)
        found = list(dict.fromkeys(min(self._base * f, highest) for f in FACTORS))
        return found + [self.setting.get(t.run) for t in sorted(self.trials, key=lambda t: t.id)[len(found) :]]

    def _id(self, k: int) -> str:
        return f"{self.setting.name}-{k:02d}"

    def _lr(self, run: RunConfig) -> float:
        """The law's best at this run, a shade below its mean as in `advice`."""
        belief = self.chooser.belief
        mean, _, shade = belief.foretold(np.array(point(run)) - belief.origin)
        return float(f"{math.exp(mean - shade):.4g}")

    @property
    def observed(self) -> list[tuple[float, float | None]]:
        done = [t for t in self.trials if t.status in ("finished", "diverged")]
        return sorted(((self.setting.get(t.run), t.loss) for t in done), key=lambda o: o[0])

    def optimum(self) -> Optimum | None:
        noise = self.chooser.belief.posterior.noise * min((loss for _, loss in self.observed if loss), default=1.0)
        finite = [(v, loss) for v, loss in self.observed if loss is not None]
        diverged = [v for v, loss in self.observed if loss is None]
        return fit_optimum([v for v, _ in finite], [x for _, x in finite], diverged=diverged, noise=noise)

    def advise(self, answer: Recommendation) -> Recommendation:
        """The answer with this setting's value, or with the reason why the target's own is kept."""
        name, finished = self.setting.name, [(v, loss) for v, loss in self.observed if loss is not None]
        if answer.lr is None or len(finished) < 3:
            return _because(answer, f"{name} was not searched: the budget did not hold a sweep of it beside the lr's.")
        losses = [loss for _, loss in finished]
        noise, best, run = self.chooser.belief.posterior.noise * min(losses), self.optimum(), self.trials[0].run
        if best is None or max(losses) - min(losses) < 3 * noise:
            reason = f"no value of {name} differs from another by more than noise ({3 * noise:.4f} nats)"
            return _because(answer, f"The target's own {name} is kept: {reason}.")
        found = math.exp(best.log_lr)
        value = self.setting.carry(found, run, replace(self.target, lr=answer.lr))
        size, edge = f"{parameters(run.model).total:,} parameters and {run.tokens:,} tokens", best.edge
        answer = _because(
            answer,
            f"{name} {self.setting.said(found)} was best at {size}; carried over to the target it is "
            f"{self.setting.said(value)}." + (f" It is at the {edge} end of those tried." if edge else ""),
        )
        details = {name: {"observed": self.observed, "best": found, "sd": best.sd, "edge": edge}}
        answer = replace(answer, details={**answer.details, **details})
        if name == "warmup":
            return replace(answer, warmup=round(value))
        return replace(answer, weight_decay=float(f"{value:.3g}"))


def ratio(run: RunConfig) -> float:
    """Tokens a parameter."""
    return run.tokens / parameters(run.model).total


def _because(answer: Recommendation, reason: str) -> Recommendation:
    return replace(answer, reasons=(*answer.reasons, reason))
