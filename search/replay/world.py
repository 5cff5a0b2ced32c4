"""A recorded sweep as a world: any strategy runs in it, in milliseconds, by interpolation inside the table.

Each run has the lrs that were recorded for it: a proposal beyond them is run at the nearest of them, and the trial says
at which. So one short cell censors nobody, and nothing outside the table is made up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from search.budget import CostModel, Spending
from search.execution.session import Session
from search.records import History, Problem, Proposal, Trial
from search.replay.table import Cell, Table
from search.strategy import Done, Strategy
from trainer.architecture.counts import parameters
from trainer.config import DataConfig, RunConfig
from trainer.errors import UserError

BANDWIDTH = 0.45  # ln lr; a little over one step of the sqrt(2) grids that sweeps use
FLOOR = 0.01  # heights are smoothed as ln(height + 1 %): the wall must not bend the valley
STEP = 0.01  # ln lr between the points at which a smoothed curve is kept


@dataclass(frozen=True)
class Curve:
    """Smoothed loss against ln lr of one cell; infinite where runs diverged."""

    log_lr: np.ndarray
    loss: np.ndarray

    def at(self, x: float) -> float:
        return float(np.interp(x, self.log_lr, self.loss))


def smooth(cell: Cell, bandwidth: float = BANDWIDTH) -> Curve:
    """Local quadratic regression of ln(loss / lowest - 1 + FLOOR) on ln lr.

    The weights are Gaussian, and wider where lrs are sparse.
    Between a finished and a diverged lr the curve ends half-way: beyond, the run counts as
    diverged.
    """
    alive = np.isfinite(cell.loss)
    x, low = cell.log_lr[alive], float(cell.loss[alive].min())
    y = np.log(cell.loss[alive] / low - 1 + FLOOR)
    grid = np.arange(cell.log_lr[0], cell.log_lr[-1] + STEP, STEP).clip(max=cell.log_lr[-1])
    gap = grid[:, None] - x[None, :]
    fourth = np.sort(np.abs(gap), axis=1)[:, min(3, len(x) - 1)]
    weight = np.exp(-0.5 * (gap / np.maximum(bandwidth, 0.4 * fourth)[:, None]) ** 2)
    powers = np.stack([np.ones_like(gap), gap, gap**2], axis=-1)
    normal = np.einsum("gp,gpi,gpj->gij", weight, powers, powers) + 1e-9 * np.eye(3)
    fitted = np.linalg.solve(normal, np.einsum("gp,gpi,p->gi", weight, powers, y)[..., None])[:, 0, 0]
    loss = low * (1 + np.exp(fitted) - FLOOR)
    nearest = np.abs(grid[:, None] - cell.log_lr[None, :]).argmin(axis=1)
    return Curve(grid, np.where(alive[nearest], loss, math.inf))


@dataclass(frozen=True)
class World:
    """Answers proposals from `table`: lrs and batches in between by interpolation, N and D only where measured; runs
    cut short where it has their loss curves."""

    table: Table
    noise: float | None = None
    """Sd of a run's loss, as a fraction of it; None: estimated from the table."""
    seed: int = 0
    """Draws the noise: the same run gives the same loss in one world."""
    curves: dict[tuple[int, ...], Curve] = field(default_factory=dict, repr=False)
    """By (N, D, B), and by (N, D, B, tokens) for runs cut short, as they are asked for."""

    def __post_init__(self) -> None:
        if not self.curves:
            self.curves.update({key: smooth(cell) for key, cell in self.table.cells.items()})

    @cached_property
    def sd(self) -> float:
        return estimate_noise(self.table, self.curves) if self.noise is None else self.noise

    @cached_property
    def _sizes(self) -> dict[int, int]:
        """N as the model's shape counts it -> N in the table."""
        return {parameters(model).non_embedding: n for n, model in self.table.models.items()}

    def key(self, run: RunConfig) -> tuple[int, int, int]:
        n = parameters(run.model).non_embedding
        return self._sizes.get(n, n), run.tokens, run.batch

    def loss(self, run: RunConfig, lr: float, tokens: int | None = None) -> float:
        """The smoothed loss, without noise; infinite: diverged. UserError outside the table.

        tokens: where the run is cut short.
        """
        n, d, b = self.key(run)
        ends = self._ends(run)
        curves = [self._curve(n, d, v, tokens or d) for v in ends]
        first, last = max(c.log_lr[0] for c in curves), min(c.log_lr[-1] for c in curves)
        x = math.log(lr)
        if not first - 0.01 <= x <= last + 0.01:
            raise UserError(f"The table has lrs of {math.exp(first):.3g} to {math.exp(last):.3g} here, not {lr:.3g}.")
        low, high = ends
        share = 0.0 if low == high else math.log(b / low) / math.log(high / low)
        left, right = curves[0].at(x), curves[1].at(x)
        return left if share == 0 else (1 - share) * left + share * right

    def _ends(self, run: RunConfig) -> tuple[int, int]:
        """The measured batches about the run's own."""
        n, d, b = self.key(run)
        batches = self.table.batches(n, d)
        if not batches:
            raise UserError(f"The table has no runs of N={n:g}, D={d:g}: ask for a run of Problem.proxies.")
        if not batches[0] <= b <= batches[-1]:
            raise UserError(
                f"The table has batches of {batches[0]} to {batches[-1]} tokens at N={n:g}, D={d:g}, not {b}."
            )
        return max(v for v in batches if v <= b), min(v for v in batches if v >= b)

    def _curve(self, n: int, d: int, b: int, tokens: int) -> Curve:
        if tokens >= d:
            return self.curves[n, d, b]
        if (n, d, b, tokens) not in self.curves:
            cell = self.table.cut(n, d, b, tokens)
            if cell is None:
                raise UserError(f"The table does not say what runs of N={n:g}, D={d:g} were after {tokens:g} tokens.")
            self.curves[n, d, b, tokens] = smooth(cell)
        return self.curves[n, d, b, tokens]

    def range(self, run: RunConfig, tokens: int | None = None) -> tuple[float, float]:
        """Smallest and largest lr that can be answered for `run`, whole or after so many tokens."""
        n, d, _ = self.key(run)
        spans = [self._curve(n, d, v, tokens or d).log_lr for v in self._ends(run)]
        return math.exp(max(s[0] for s in spans)), math.exp(min(s[-1] for s in spans))

    def run(self, proposal: Proposal, cost: CostModel) -> Trial:
        """The proposal as it would have ended, at its lr or the nearest recorded; `failed`, at no cost, where the table
        has no such run."""
        run, loss, error, trunk = proposal.run, None, "", None
        try:
            low, high = self.range(run, proposal.horizon)
            run = replace(run, lr=min(max(proposal.lr, low), high))
            exact = self.loss(run, run.lr or 0.0, proposal.horizon)
            key = [self.seed, *self.key(run), round(1e6 * (20 + math.log(run.lr or 1.0))), run.seed]
            noisy = exact * (1 + self.sd * float(np.random.default_rng(key).standard_normal()))
            loss = noisy if math.isfinite(noisy) else None
            trunk = proposal.horizon if proposal.keep and loss is not None and run.schedule != "wsd" else None
            bill = cost.forecast(run, proposal.train_tokens)
        except UserError as refusal:
            error, bill = str(refusal), Spending()
        return Trial(
            id=proposal.id,
            parent=proposal.parent,
            run=run,
            horizon=proposal.horizon,
            start=proposal.start,
            status="failed" if error else "diverged" if loss is None else "finished",
            loss=loss,
            trunk=trunk,
            seconds=bill.seconds,
            flops=bill.flops,
            usd=bill.usd,
            error=error,
            tags=proposal.tags,
        )

    def configuration(self, n: int, d: int, b: int) -> RunConfig:
        model = self.table.models[n]
        return RunConfig(model=model, data=DataConfig(val_tokens=model.context), tokens=d, batch=b)

    def earliest(self, run: RunConfig) -> float:
        """Tokens from which runs like it can be cut short; infinite: its table has no curves."""
        n, d, _ = self.key(run)
        return max(self.table.earliest(n, d, v) for v in self._ends(run))

    def spans(self, runs: Iterable[RunConfig]) -> tuple[float, float]:
        """From the smallest lr that any of them has to the largest."""
        found = [self.range(run) for run in runs]
        return min(low for low, _ in found), max(high for _, high in found)


def estimate_noise(table: Table, curves: dict[tuple[int, ...], Curve]) -> float:
    """Relative sd of a run's loss: of repeated runs where there are some, else of residuals within
    2 % of the floor."""
    freedom = sum(cell.spread[1] for cell in table.cells.values())
    if freedom >= 10:
        total = sum(c.spread[0] / float(c.loss.min()) ** 2 for c in table.cells.values())
        return math.sqrt(total / freedom)
    residuals = []
    for key, cell in table.cells.items():
        low = float(cell.loss.min())
        near = [i for i in range(1, len(cell.loss) - 1) if cell.loss[i] < 1.02 * low]
        residuals += [cell.loss[i] / curves[key].at(cell.log_lr[i]) - 1 for i in near]
    # 1.4826 x the median absolute deviation; the smoother leaves about 0.7 of a point's own noise
    return 1.4826 * float(np.median(np.abs(residuals))) / 0.7 if residuals else 0.0


class Answers(Protocol):
    """Whatever says how a proposal would have ended."""

    def run(self, proposal: Proposal, cost: CostModel) -> Trial: ...


def replay(strategy: Strategy, problem: Problem, world: Answers, slots: int = 4) -> History:
    """Run the strategy to its end in `world`; `slots` trials at a time."""
    session = Session(strategy, problem)
    for batch in _rounds(session, slots):
        for proposal in batch:
            session.finish(world.run(proposal, session.problem.cost))
    return session.history


def _rounds(session: Session, slots: int) -> Iterator[list[Proposal]]:
    for _ in range(10_000):
        answer = session.next(slots)
        if isinstance(answer, Done):
            return
        yield answer
    raise RuntimeError(f"{type(session.strategy).__name__} asked 10,000 times without coming to an end.")
