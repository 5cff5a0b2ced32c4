"""Planted problems: loss as a formula of lr, N, D and batch with a known best lr, of families that no one table has.

What is drawn covers what sweeps show (small models have steeper valleys and scatter more), and goes beyond any
published law: lr* may rise with N. A strategy knows nothing of this file; regret and coverage are against the formula.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from search.budget import Budget, CostModel, Spending
from search.records import Problem, Proposal, Trial, point
from search.shapes.ladder import ladder, model_of, size_of
from trainer.architecture.counts import run_flops
from trainer.config import DataConfig, RunConfig
from trainer.errors import UserError
from trainer.schedule import decay_start

Kind = Literal["valley", "flat", "edge", "point"]
"""valley: to be answered. To be refused: flat, the loss does not depend on the lr; edge, every best lr lies far beyond
the lrs allowed; point, the budget holds one trial of the only proxy there is."""
SIZES = (1 / 64, 1 / 16, 1 / 4)
HORIZONS = (1 / 16, 1 / 4, 1.0)
BATCHES = (1.0, 0.25)
LR_RANGE = (1e-4, 1e-1)  # that of `hpt.search`
RESOLVED = 0.5  # noise over curvature at most: beyond, one run cannot tell an lr from one 2 e-folds away
UNANNEALED = 1.05  # times the loss of a run cut short before its lr has come down
CAPPED = 0.6  # of the loss: far below the best lr a run learns little, and no less than nothing


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A world with one target. n, d, b are ln of N, D and batch over the target's."""

    target: RunConfig
    kind: Kind
    name: str
    level: float
    """ln lr* of the target at its batch."""
    slopes: tuple[float, float, float]
    """d ln lr* / d n, d, b at the target."""
    bends: tuple[float, float]
    """Second derivatives by n and d, halved: no law is a straight line."""
    curvature: float
    """Loss over the floor, less 1, per squared unit of ln lr, at the target."""
    steeper: float
    """Power of N that the curvature goes with."""
    wall: Literal["cubic", "linex", "knee"]
    """Above the best lr: dearer than below by a cube or an exponential, or a knee and a plateau (small models)."""
    skew: float
    cliff: float
    """Runs this far above lr*, in ln lr, diverge; infinite: none does."""
    noise: float
    """Sd of a run's loss, as a fraction of it, at the target."""
    louder: float
    """Power of N that the noise goes with."""
    best_batch: float
    """ln of the best batch over the target's."""
    early: float
    """By how much the best lr of a run cut short is below that of a whole run of as many tokens, in ln lr."""
    lr_range: tuple[float, float] = LR_RANGE
    seed: int = 0

    def log_best(self, run: RunConfig, tokens: float | None = None) -> float:
        """ln lr* of `run`, whole."""
        n, d, b = self._place(run, tokens)
        (a, q, p), (bend_n, bend_d) = self.slopes, self.bends
        return self.level + a * n + q * d + p * b + bend_n * n * n + bend_d * d * d

    def loss(self, run: RunConfig, lr: float, tokens: float | None = None) -> float:
        """Without noise; infinite: diverged. `tokens`: where a run of more is cut short."""
        n, d, b = self._place(run, tokens)
        floor = 1.7 + 1.1 * math.exp(-0.3 * n) + 0.6 * math.exp(-0.3 * d)
        floor *= 1 + 0.004 * (b - self.best_batch) ** 2
        cut = tokens is not None and tokens < run.tokens
        z = math.log(lr) - self.log_best(run, tokens) + (self.early if cut else 0.0)
        if z > self.cliff:
            return math.inf
        return floor * (UNANNEALED if cut else 1.0) * (1 + self._height(z, n))

    def _height(self, z: float, n: float) -> float:
        """Loss over the floor, less 1."""
        h = self.curvature * math.exp(self.steeper * n)
        if self.kind == "flat":
            return 0.0
        rise = h * z * z
        if z > 0:
            match self.wall:
                case "cubic":
                    rise *= 1 + self.skew * z
                case "linex":
                    rise = 2 * h * (math.expm1(min(self.skew * z, 20.0)) - self.skew * z) / self.skew**2
                case "knee":
                    rise = rise / (1 + rise / 0.08)
        return rise / (1 + rise / CAPPED)

    def _place(self, run: RunConfig, tokens: float | None) -> tuple[float, float, float]:
        here, there = point(run), point(self.target)
        return here[0] - there[0], math.log((tokens or run.tokens) / self.target.tokens), here[2] - there[2]

    def truth(self, joint: bool = False) -> Exact:
        """joint: the best batch counts as well."""
        return Exact(self, joint)

    def problem(self, share: float, menu: bool = False) -> Problem:
        """With `share` of the target's FLOPs to spend. menu: smaller sizes only, as in a table; else any run."""
        flops, proxies = share * run_flops(self.target), None
        if self.kind == "point":
            runs = ladder(self.target, SIZES, (1 / 4,))
            proxies = runs[-1:]
            flops = 1.5 * run_flops(proxies[0])
        elif menu:
            proxies = ladder(self.target, SIZES, HORIZONS, BATCHES)
        return Problem(
            target=self.target,
            budget=Budget(flops=flops),
            cost=CostModel(evaluations=0),
            lr_range=self.lr_range,
            proxies=proxies,
            seed=self.seed,
        )

    def run(self, proposal: Proposal, cost: CostModel) -> Trial:
        """The proposal as it would have ended; in the world of one point, all but that are `failed`, at no cost."""
        run, error = proposal.run, ""
        if self.kind == "point" and replace(run, lr=None, seed=0) not in (self.problem(1.0).proxies or ()):
            error, loss, bill = "There is no such run here.", None, Spending()
        else:
            loss, bill = self._noisy(proposal), cost.forecast(run, proposal.train_tokens)
        return Trial(
            id=proposal.id,
            parent=proposal.parent,
            run=run,
            horizon=proposal.horizon,
            start=proposal.start,
            status="failed" if error else "diverged" if loss is None else "finished",
            loss=loss,
            trunk=min(decay_start(run) * run.batch, proposal.horizon) if proposal.keep and loss is not None else None,
            seconds=bill.seconds,
            flops=bill.flops,
            usd=bill.usd,
            error=error,
            tags=proposal.tags,
        )

    def _noisy(self, proposal: Proposal) -> float | None:
        run = proposal.run
        exact = self.loss(run, proposal.lr, proposal.horizon)
        if math.isinf(exact):
            return None
        n = self._place(run, None)[0]
        what = f"{size_of(run)} {proposal.horizon} {run.tokens} {run.batch} {proposal.lr:.4e} {run.seed}"
        key = [self.seed, zlib.crc32(self.name.encode()), zlib.crc32(what.encode())]
        scatter = self.noise * math.exp(self.louder * n)
        return exact * (1 + scatter * float(np.random.default_rng(key).standard_normal()))


@dataclass(frozen=True)
class Exact:
    """The truth of a planted problem (search.replay.truth.Truth); smooth and grid are one."""

    planted: Planted
    joint: bool

    @property
    def _run(self) -> RunConfig:
        target, b = self.planted.target, self.planted.best_batch
        return replace(target, batch=max(1, round(target.batch * math.exp(b)))) if self.joint else target

    @property
    def best(self) -> float:
        return math.exp(self.planted.log_best(self._run))

    @property
    def best_grid(self) -> float:
        return self.best

    def regret(self, lr: float, batch: int) -> tuple[float, float]:
        lowest = self.planted.loss(self._run, self.best)
        percent = 100 * (self.planted.loss(replace(self.planted.target, batch=batch), lr) / lowest - 1)
        return percent, percent


def usual_level(n: float) -> float:
    """ln of an lr that is usual at `n` parameters: 2e-3 at 1e8, less for larger ones; below 1e7 it no longer rises."""
    return math.log(2e-3) - 0.4 * math.log(max(n, 1e7) / 1e8)


def plant(number: int, kind: Kind = "valley", off: float | None = None) -> Planted:
    """Problem `number` of its kind, always the same one. off: ln of its lr* over the usual one; None: drawn."""
    draw = np.random.default_rng([20261127, ("valley", "flat", "edge", "point").index(kind), number])

    def between(low: float, high: float) -> float:
        return float(draw.uniform(low, high))

    def over(low: float, high: float) -> float:
        return math.exp(between(math.log(low), math.log(high)))

    target = _target(over(3e5, 1e9), over(8, 100), over(0.5, 2))
    curvature = over(0.003, 0.06)
    noise = over(0.0005, min(0.015, RESOLVED * curvature))
    wall = ("cubic", "linex", "knee")[int(draw.integers(3))]
    scatter = 0.5 * float(draw.standard_normal())
    made = Planted(
        target=target,
        kind=kind,
        name=f"{kind}-{number:03d}",
        level=usual_level(size_of(target)) + (scatter if off is None else off),
        slopes=(between(-1, 0.5), between(-0.5, 0.5), between(0, 0.6)),
        bends=(0.015 * float(draw.standard_normal()), 0.015 * float(draw.standard_normal())),
        curvature=curvature,
        steeper=between(-0.3, 0),
        wall=wall,
        skew=between(0.3, 1.2) if wall == "linex" else between(0, 3),
        cliff=between(1.2, 4) if wall != "knee" and draw.random() < 0.8 else math.inf,
        noise=noise,
        louder=between(-0.15, 0),
        best_batch=between(-0.7, 0.7),
        early=between(0, math.log(4)),
        seed=number,
    )
    return _unanswerable(made, number)


def _unanswerable(made: Planted, number: int) -> Planted:
    """The problem as its kind wants it: noise of 0.07 % or 1 % about a flat loss, or the lrs far from the best."""
    if made.kind == "flat":
        return replace(made, noise=(0.0007, 0.01)[number % 2], louder=0.0, cliff=math.inf)
    if made.kind == "edge":  # a factor of 25 away: beyond what strategies add to the range, at every size
        best, far = math.exp(made.level), 25.0
        low, high = (best / far / 16, best / far) if number % 2 else (best * far, best * far * 16)
        slopes = (0.2 * made.slopes[0], 0.2 * made.slopes[1], made.slopes[2])
        return replace(made, lr_range=(low, high), slopes=slopes, bends=(0.0, 0.0), cliff=math.inf)
    return made


def _target(n: float, tokens_each: float, batch: float) -> RunConfig:
    """About `n` parameters, `tokens_each` tokens to each of them, `batch` times Step Law's best batch; 6ND FLOPs."""
    model = model_of(round(n))
    d = tokens_each * n
    size = max(1, round(min(batch * 0.58 * d**0.571, d / 1000)))  # 1,000 steps at least
    tokens = round(d / size) * size
    return RunConfig(model=model, data=DataConfig(val_tokens=1), tokens=tokens, batch=size, warmup=tokens // 50)


@dataclass(frozen=True, kw_only=True)
class Garden:
    """How many problems of each kind."""

    valleys: int = 200
    shifted: int = 50
    """Of the first so many, the same again with the level exactly usual, and off by x2 and by x4."""
    refusals: int = 20
    """Of each kind that nobody could answer."""

    @staticmethod
    def of(valleys: int) -> Garden:
        """Shares of the rest as 200 have them."""
        return Garden(valleys=valleys, shifted=-(-valleys // 4), refusals=-(-valleys // 10))

    def problems(self) -> Iterator[tuple[str, Planted]]:
        """(group, problem)"""
        if min(self.valleys, self.shifted, self.refusals) < 0 or not self.valleys:
            raise UserError("Planted problems: at least one valley, and no negative numbers.")
        yield from (("planted", plant(i)) for i in range(self.valleys))
        for factor in (1, 2, 4):
            for i in range(min(self.shifted, self.valleys)):
                sign = 1 if i % 2 else -1
                name = f"planted, level x{factor}"
                yield name, replace(plant(i, off=sign * math.log(factor)), name=f"valley-{i:03d}-x{factor}")
        for kind in ("flat", "edge", "point"):
            yield from ((f"planted, {kind}", plant(i, kind)) for i in range(self.refusals))
