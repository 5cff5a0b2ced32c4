"""The words of a search: Problem, Proposal, Trial, History, Recommendation. Plain data, no I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, cached_property
from typing import Any, Literal, TypeVar, get_args

import numpy as np

from search.budget import Budget, CostModel, Spending
from trainer.architecture.counts import parameters
from trainer.config import DataConfig, ModelConfig, RunConfig, from_dict, to_dict
from trainer.typed import later_dict

T = TypeVar("T")
Status = Literal["finished", "diverged", "pruned", "failed"]
CUT_OFF = "cut off"
"""Stage of the bills of attempts that an interruption or a crash cut off; the trials themselves are run again."""


def point(run: RunConfig) -> tuple[float, float, float]:
    """(ln N, ln D, ln B) of a run: non-embedding parameters, training tokens, tokens a step."""
    return math.log(parameters(run.model).non_embedding), math.log(run.tokens), math.log(run.batch)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is asked: which lr should `target` use, for no more than `budget`."""

    target: RunConfig
    budget: Budget
    cost: CostModel
    lr_range: tuple[float, float] = (1e-4, 1e-1)
    """Where peak lrs are searched; strategies may widen it when the optimum lies at an end."""
    proxies: tuple[RunConfig, ...] | None = None
    """The runs (without lr) that may be asked for, as on a recorded table; None: any shape, horizon and batch.
    A strategy that wants another one takes the nearest of these (`search.shapes.menu.nearest`)."""
    recorded: tuple[tuple[float, float], ...] | None = None
    """Smallest and largest lr that each of `proxies` can be run at, where they were recorded; None: any. A trial beyond
    them is run at the nearest, and its record says so."""
    seed: int = 0

    @cached_property
    def memo(self) -> dict[Any, Any]:
        """What strategies derived from the problem alone, so as not to do it at every question; no part of it."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: self.__dict__[f.name] for f in fields(self)}

    @cached_property
    def menu(self) -> np.ndarray:
        """(proxies, 3) of ln N, ln D, ln B."""
        return np.array([point(run) for run in self.proxies or ()]).reshape(-1, 3)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A trial to run: `run` (with its lr) from its start, or from `parent`'s trunk, up to `horizon` tokens."""

    id: str
    """Chosen by the strategy, the same for the same history; also the checkpoint's name."""
    run: RunConfig
    horizon: int
    """Tokens at which the final validation loss is measured; `run.tokens` unless the schedule is cut short."""
    parent: str | None = None
    """Trial whose trunk checkpoint this one continues (promotion)."""
    start: int = 0
    """Tokens at which the parent's trunk ended: what need not be trained again."""
    keep: bool = False
    """Keep a trunk checkpoint (before the cooldown), because this trial may be promoted."""
    tags: dict[str, Any] = field(default_factory=dict)
    """For people and the report: bracket, rung, stage ..."""

    @property
    def lr(self) -> float:
        assert self.run.lr is not None
        return self.run.lr

    @property
    def train_tokens(self) -> int:
        """Tokens this proposal itself trains on, cooldown branch included."""
        return self.horizon - self.start


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A proposal that has been run: one line of trials.jsonl."""

    id: str
    parent: str | None = None
    run: RunConfig
    horizon: int
    start: int = 0
    status: Status
    loss: float | None = None
    """Final validation loss, nats a token; None unless `finished`."""
    bits_per_byte: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    """(tokens, validation loss), in order."""
    train_curve: tuple[tuple[int, float], ...] = ()
    """(tokens, mean training loss since the point before)."""
    seconds: float = 0.0
    """It held its slot (a device, or a core of a machine without one): what is billed."""
    train_seconds: float = 0.0
    """Of these, inside the worker."""
    flops: float = 0.0
    usd: float = 0.0
    device: str = ""
    pack: int = 1
    """Runs trained together with this one on the device (itself included)."""
    trunk: int | None = None
    """Tokens at which the trunk checkpoint was taken, where one was kept."""
    scores: dict[str, float] = later_dict()
    """On tasks, by TASK/SCORE, where the search was asked for them."""
    error: str = ""
    retries: int = 0
    """How often its worker process died before; what those attempts cost is in this bill."""
    tags: dict[str, Any] = field(default_factory=dict)

    @property
    def lr(self) -> float:
        assert self.run.lr is not None
        return self.run.lr

    @property
    def aside(self) -> bool:
        """A bill that is no trial of the strategy's: timing the shapes, or an attempt that was cut off."""
        return self.tags.get("stage") in ("calibration", CUT_OFF)

    @property
    def spending(self) -> Spending:
        return Spending(self.seconds, self.flops, self.usd)

    @property
    def tokens_per_second(self) -> float:
        return (self.horizon - self.start) / self.train_seconds if self.train_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        return to_dict(self)

    @staticmethod
    def unchecked(values: dict[str, Any]) -> Trial:
        """Of values that `from_json` has taken before: the same object, ten times as fast."""
        run: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["run"].items()}
        run |= {name: _frozen(kind, run[name]) for name, kind in (("model", ModelConfig), ("data", DataConfig))}
        curves = {k: tuple((int(t), float(v)) for t, v in values[k]) for k in ("curve", "train_curve")}
        return _bare(Trial, {**values, **curves, "run": _bare(RunConfig, run)})

    @staticmethod
    def from_json(values: dict[str, Any]) -> Trial:
        curves = {k: tuple((int(t), float(v)) for t, v in values.get(k, ())) for k in ("curve", "train_curve")}
        trial = from_dict(Trial, {**values, **curves})
        wanted = {"id": str, "run": RunConfig, "horizon": int, "seconds": int | float, "flops": int | float,
                  "usd": int | float, "loss": int | float | None, "tags": dict}  # fmt: skip
        for name, kind in wanted.items():
            if not isinstance(getattr(trial, name), kind):
                raise ValueError(f"its {name} is {getattr(trial, name)!r}")
        if trial.status not in get_args(Status) or trial.run.lr is None:
            raise ValueError(f"its status is {trial.status!r} and its lr {trial.run.lr}")
        return trial


def _bare(kind: type[T], values: dict[str, Any]) -> T:
    """An instance with these fields, which are known to be good."""
    made = object.__new__(kind)
    made.__dict__.update(_defaults(kind))
    made.__dict__.update(values)
    for name, factory in _factories(kind).items():
        if name not in values:
            made.__dict__[name] = factory()
    return made


@cache
def _defaults(kind: type) -> dict[str, Any]:
    """Of fields that older files do not have."""
    return {f.name: f.default for f in fields(kind) if f.default is not MISSING}


@cache
def _factories(kind: type) -> dict[str, Callable[[], Any]]:
    return {f.name: f.default_factory for f in fields(kind) if f.default_factory is not MISSING}


_MADE: dict[Any, Any] = {}


def _frozen(kind: type[T], values: dict[str, Any]) -> T:
    """One object for equal values: a history has few models."""
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    key = (kind, *values.items())
    if key not in _MADE:
        _MADE[key] = _bare(kind, values)
    return _MADE[key]


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything a strategy may know: the problem, the trials in the order they ended, what still runs."""

    problem: Problem
    trials: tuple[Trial, ...] = ()
    running: tuple[Proposal, ...] = ()
    lost: Spending = Spending()
    """Cost of attempts that an interruption or a crash cut off. Strategies see their bill alone: a search that was
    interrupted decides as one that was not."""

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: self.__dict__[f.name] for f in fields(self)}  # what is cached is not part of it

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    def __len__(self) -> int:
        return len(self.trials)

    def get(self, trial_id: str) -> Trial | None:
        return self._by_id.get(trial_id)

    @cached_property
    def _by_id(self) -> dict[str, Trial]:
        return {t.id: t for t in self.trials}

    @cached_property
    def known(self) -> set[str]:
        """Ids that have ended or are running."""
        return set(self._by_id) | {p.id for p in self.running}

    @property
    def finished(self) -> list[Trial]:
        return [t for t in self.trials if t.status == "finished"]

    @cached_property
    def spent(self) -> Spending:
        return sum((t.spending for t in self.trials), self.lost)


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The answer. Intervals are of the best peak lr for the target."""

    lr: float | None
    """None: no recommendation can be given; `reasons` say why."""
    interval50: tuple[float, float] | None = None
    interval90: tuple[float, float] | None = None
    max_stable_lr: float | None = None
    """Largest lr that finished below every one that diverged; None where none diverged above it."""
    undiverged_lr: float | None = None
    """Largest lr that finished, where none diverged at all."""
    expected_regret: float | None = None
    """Expected loss given up at the target, nats a token; None where the strategy cannot know it."""
    worst_regret: float | None = None
    """The same at the worse end of the 90 % interval."""
    batch: int | None = None
    """Recommended batch in tokens, where it was searched."""
    weight_decay: float | None = None
    warmup: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    """Other fields of the target that the lr holds for, such as its parametrisation; the final run takes them."""
    law: str = ""
    """How the answer was carried from the trials to the target, in one line."""
    rejected: tuple[tuple[str, str], ...] = ()
    """(law, reason) for each that was fitted and not used."""
    reasons: tuple[str, ...] = ()
    """Evidence and doubts, one sentence each."""
    trials: tuple[str, ...] = ()
    """Ids of the trials that the answer rests on."""
    details: dict[str, Any] = field(default_factory=dict)
    """JSON values for the report: fitted curves, predictions."""
