"""Budgets and forecasts: what a proposal will cost, and whether it still fits. Pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from trainer.architecture.counts import evaluation_flops, flops_per_token, run_flops
from trainer.config import RunConfig


@dataclass(frozen=True)
class Spending:
    """A bill. What a search has spent is the sum over its history, never a second book."""

    seconds: float = 0.0
    """Device-seconds."""
    flops: float = 0.0
    usd: float = 0.0

    def __add__(self, other: Spending) -> Spending:
        return Spending(self.seconds + other.seconds, self.flops + other.flops, self.usd + other.usd)

    def __mul__(self, times: float) -> Spending:
        return Spending(self.seconds * times, self.flops * times, self.usd * times)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Caps on a whole search; None: no cap of that kind. At least one is set."""

    usd: float | None = None
    hours: float | None = None
    """Device-hours: two devices for one hour are two."""
    flops: float | None = None
    reserve: float = 0.0
    """Share of the caps on time and money that plans leave alone: what is forecast is right on average only, and the
    last trial of a plan (the longest of hyperband's) is not to be the one that is lost."""
    held: Spending = Spending()
    """What plans leave alone beside that: the start of the worker processes, which is no trial's."""

    @property
    def whole(self) -> Budget:
        """The caps themselves: what may be spent."""
        return replace(self, reserve=0.0, held=Spending())

    def holds(self, other: Budget) -> bool:
        """Whether every cap is at least the other's."""
        pairs = ((self.usd, other.usd), (self.hours, other.hours), (self.flops, other.flops))
        return all(mine is None or (cap is not None and mine >= cap) for mine, cap in pairs)

    def part(self, before: Spending, count: int) -> Budget:
        """Each cap less what went before, over so many."""
        usd, seconds, flops = self._caps()
        left = [
            None if cap is None else max(0.0, cap - taken) / count
            for cap, taken in ((usd, before.usd), (seconds, before.seconds), (flops, before.flops))
        ]
        return Budget(usd=left[0], hours=None if left[1] is None else left[1] / 3600, flops=left[2])

    def seconds_left(self, spent: Spending, usd_per_hour: float) -> float:
        """Device-seconds until the first cap on time or money; infinite without one."""
        usd, seconds, _ = self._caps()
        left = [math.inf if seconds is None else seconds - spent.seconds]
        if usd is not None and usd_per_hour:
            left.append((usd - spent.usd) / usd_per_hour * 3600)
        return min(left)

    def _caps(self) -> tuple[float | None, float | None, float | None]:
        """(dollars, seconds, FLOPs) that a plan may come to."""
        kept = 1 - self.reserve
        return (
            None if self.usd is None else (self.usd - self.held.usd) * kept,
            None if self.hours is None else (self.hours * 3600 - self.held.seconds) * kept,
            None if self.flops is None else self.flops - self.held.flops,
        )

    def allows(self, total: Spending) -> bool:
        """Whether `total` stays under every cap (rounding is forgiven at 1e-9)."""
        return self.share(total) <= 1 + 1e-9

    def share(self, cost: Spending) -> float:
        """The largest fraction of any cap that `cost` is."""
        pairs = zip(self._caps(), (cost.usd, cost.seconds, cost.flops), strict=True)
        shares = [value / cap if cap > 0 else math.inf for cap, value in pairs if cap is not None]
        return max(shares, default=0.0)

    def needed(self, cost: Spending) -> str:
        """The caps that `cost` would need, in words."""
        words: list[str] = []
        kept, held = 1 - self.reserve, self.held
        if self.usd is not None:
            words.append(f"${_up(cost.usd / kept + held.usd)}")
        if self.hours is not None:
            words.append(f"{_up((cost.seconds / kept + held.seconds) / 3600)} device-hours")
        if self.flops is not None:
            words.append(f"{_up(cost.flops + held.flops)} FLOPs")
        return ", ".join(words)


def _up(value: float) -> str:
    """In three digits, rounded up: whoever gives as much has enough."""
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    rounded = math.ceil(value * 10.0**digits * (1 - 1e-12)) / 10.0**digits
    return f"{rounded:.3g}" if value < 1e-3 or value >= 1e5 else f"{rounded:.{max(0, digits)}f}"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What calibration measured for one model shape."""

    step_seconds: float
    """Median of steps 10-19 of 20: forecasts are to be right on average, the caps are watched while trials run."""
    eval_seconds: float = 0.0
    """One pass over the held-out tokens."""
    startup_seconds: float = 0.0
    """Before the first step of a trial in a warm worker; step 0 is counted here."""
    pack: int = 1
    """Trials that are trained together on a device; seconds are one's share."""
    compiled: bool = False
    """By torch.compile, because it pays."""


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """Seconds, FLOPs and dollars of a proposal. Without timings seconds are FLOPs over `flops_per_second`."""

    usd_per_hour: float = 0.0
    """Price of one device."""
    flops_per_second: float = 0.0
    """Of a device at its peak: what time and money are planned by before any step was timed, so that only what is
    hopeless is refused then. 0: nobody knows, and only FLOPs are forecast."""
    timings: dict[str, Timing] = field(default_factory=dict[str, Timing])
    """By `shape_key`; other shapes are scaled from the nearest by FLOPs."""
    evaluations: int = 1
    """Validation passes a trial makes."""
    task_tokens: int = 0
    """That it reads to be scored on tasks; their time is in the timings' evaluation."""
    task_share: float = 1.0
    """Of them, that the output head sees."""

    def forecast(self, run: RunConfig, tokens: float) -> Spending:
        """Cost of training `run` on `tokens`, with its evaluations."""
        flops = run_flops(run, tokens) + self.evaluations * evaluation_flops(run)
        flops += self.task_tokens * flops_per_token(run.model, self.task_share) / 3
        timing = self.timing(run)
        seconds = flops / self.flops_per_second if self.flops_per_second else 0.0
        if timing is not None:
            steps = tokens / run.batch
            seconds = steps * timing.step_seconds + self.evaluations * timing.eval_seconds + timing.startup_seconds
        return Spending(seconds, flops, seconds / 3600 * self.usd_per_hour)

    def timing(self, run: RunConfig) -> Timing | None:
        """The measured timing of this shape, else of the same model at another batch, else of the model nearest in
        FLOPs, scaled."""
        if not self.timings:
            return None
        if (key := shape_key(run)) in self.timings:
            return self.timings[key]
        model, work = key.split("-b")[0], flops_per_token(run.model, run.predicted)
        known = {k: _work(k) for k in self.timings}
        near = min(known, key=lambda k: (k.split("-b")[0] != model, abs(math.log(known[k][0] / work))))
        timing, (near_work, near_batch) = self.timings[near], known[near]
        return Timing(
            step_seconds=timing.step_seconds * work / near_work * run.batch / near_batch,
            eval_seconds=timing.eval_seconds * work / near_work,
            startup_seconds=timing.startup_seconds,
            pack=timing.pack,
            compiled=timing.compiled,
        )


def _work(key: str) -> tuple[float, int]:
    """(FLOPs a token, tokens a step) of a `shape_key`."""
    batch = int(key.split("-b")[1].split("-")[0])
    return float(key.rsplit("@", 1)[1]) / batch, batch


def shape_key(run: RunConfig) -> str:
    """Names what a step costs: model shape, batch, and (after @) its FLOPs a step."""
    m = run.model
    shape = f"{m.depth}x{m.width}x{m.heads}-c{m.context}-v{m.vocabulary}-{m.activation}-b{run.batch}-{run.precision}"
    return f"{shape}@{flops_per_token(m, run.predicted) * run.batch:.6g}"
