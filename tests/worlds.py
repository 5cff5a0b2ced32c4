"""A world without training: loss as a function of lr, N and D with a planted best lr, noise and divergence."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from search.budget import Budget, CostModel, Timing, shape_key
from search.execution.session import Session
from search.records import Problem, Proposal, Trial
from search.strategy import Done
from trainer.architecture.counts import parameters, run_flops
from trainer.config import RunConfig
from trainer.presets import gpt2


@dataclass(frozen=True, kw_only=True)
class World:
    """ln lr* = ln lr0 + a ln(N / 1e6) + b ln(D / 1e8), in a valley with a wall; diverges `cliff` nats above."""

    lr0: float = 3e-3
    a: float = -0.4
    b: float = 0.1
    noise: float = 0.002
    """sd of a run's loss, nats."""
    cliff: float = 2.0
    fails: Callable[[Proposal], bool] = lambda _: False
    slowness: float = 1.0
    """Seconds a trial takes over its forecast."""

    def best(self, run: RunConfig, tokens: float) -> float:
        """ln lr*."""
        n = parameters(run.model).non_embedding
        return math.log(self.lr0) + self.a * math.log(n / 1e6) + self.b * math.log(tokens / 1e8)

    def loss(self, run: RunConfig, tokens: float) -> float | None:
        """None: diverged."""
        assert run.lr is not None
        z = math.log(run.lr) - self.best(run, tokens)
        if z > self.cliff:
            return None
        n = parameters(run.model).non_embedding
        floor = 2.0 + (1e4 / n) ** 0.3 + (1e5 / tokens) ** 0.3
        return floor + 0.05 * z**2 * (1 + max(z, 0)) + self.noise * _normal(f"{run}{tokens}")

    def run(self, session: Session, proposal: Proposal) -> Trial:
        cost = session.problem.cost.forecast(proposal.run, proposal.train_tokens)
        outcome = {"status": "failed", "error": "the world said so", "flops": cost.flops}
        if not self.fails(proposal):
            loss = self.loss(proposal.run, proposal.horizon)
            outcome = {"status": "diverged" if loss is None else "finished", "loss": loss, "flops": cost.flops}
            if proposal.keep:
                outcome["trunk"] = round(0.8 * proposal.horizon / proposal.run.batch) * proposal.run.batch
        return session.billed(proposal, outcome, cost.seconds * self.slowness)


def _normal(text: str) -> float:
    """A standard normal draw that depends on `text` alone."""
    digest = hashlib.sha256(text.encode()).digest()
    u, v = (int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8))
    return math.sqrt(-2 * math.log(u + 1e-18)) * math.cos(2 * math.pi * v)


def small_target() -> RunConfig:
    """A GPT-2 of 25M parameters that the default proxies of all strategies are smaller than."""
    return gpt2(6, 384, 6, tokens=1000 * 524_288)


def problem(target: RunConfig | None = None, runs: float = 1.0, *, seed: int = 0, timed: bool = False) -> Problem:
    """A budget of `runs` target runs in FLOPs; `timed`: in hours and dollars too."""
    target = target or small_target()
    flops = runs * run_flops(target)
    if not timed:
        return Problem(target=target, budget=Budget(flops=flops), cost=CostModel(), seed=seed)
    cost = CostModel(usd_per_hour=2.0, timings={shape_key(target): Timing(step_seconds=1.0, startup_seconds=3.0)})
    hours = runs * target.steps / 3600
    return Problem(target=target, budget=Budget(flops=flops, hours=hours, usd=2.5 * hours), cost=cost, seed=seed)


def play(session: Session, world: World, slots: int = 1, until: int = 10_000) -> Session:
    """Run the search to its end, or until so many trials have ended; trials end in the order they began."""
    while len(session.trials) < until:
        answer = session.next(slots - len(session.running))
        if isinstance(answer, Done):
            break
        first = next(iter(session.running.values()))
        session.finish(world.run(session, first))
    return session
