"""The contract of a trial's trainer: proposals in, `Progress` out, and what it can declared. No torch, no Ray.

hpt's own trainer (`search.execution.worker`), somebody's command or callable (`search.execution.external`) and a
recorded sweep (`search.replay.trainer`) keep it; session, strategies and files know nothing of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

from search.records import Proposal, Trial
from search.strategy import Strategy
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.errors import UserError

SAME_LR = 0.02  # ln: two lrs that close are one run where there are no seeds
NEIGHBOUR = 1.03  # factor between lrs of which one answers for a repeat of the other


@dataclass(frozen=True, kw_only=True)
class Can:
    """What a trainer is able to do; a strategy that needs more is refused (`check_needs`)."""

    pack: bool = False
    """Train several proposals together in one job."""
    continues: bool = False
    """Go on from a parent's trunk. Where it cannot, promoted trials start again: no strategy needs it."""
    cuts_short: bool = False
    """Stop a schedule before its end, at a horizon below the run's tokens."""
    curves: bool = False
    """Report losses on the way."""
    seeds: bool = False
    """Train the same run with another seed; else a repeat is answered by a neighbouring lr (`without_seed`)."""
    lengths: bool = False
    """Train for other numbers of tokens than the target's."""
    sizes: bool = False
    """Train other shapes than the target's."""
    batches: bool = False
    """Train with other batches than the target's."""
    schedules: bool = False
    """Take the schedule's name, and so the one that a strategy wants."""
    parametrisations: bool = False
    """Train in muP and CompleteP."""


EVERYTHING = Can(**{field.name: True for field in fields(Can)})
WORDS = {
    "cuts_short": "stops runs before their schedule has ended",
    "lengths": "trains on other numbers of tokens than the target's",
    "sizes": "trains other shapes than the target's",
    "parametrisations": "trains in muP or CompleteP",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """Proposals that can be trained together, and what a worker needs for it."""

    proposals: tuple[Proposal, ...]
    data: Prepared | None
    """None: the trainer has its own."""
    checkpoints: str
    """Directory of trunk checkpoints; on a cluster it is shared."""
    threads: int
    """torch threads; more than one only when a slot owns several cores."""
    compile: bool = False
    """By torch.compile."""
    suite: Any = None
    """Tasks that a finished trial is scored on (trainer.evals.suite.Suite); None: none."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a trial is; when `status` is no longer "running" it has ended."""

    status: Literal["running", "finished", "diverged", "stopped", "failed"] = "running"
    tokens: int = 0
    train_loss: float | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    train_curve: tuple[tuple[int, float], ...] = ()
    train_seconds: float = 0.0
    flops: float = 0.0
    device: str = ""
    pack: int = 1
    """Proposals trained together, itself included."""
    trunk: int | None = None
    scores: dict[str, float] = field(default_factory=dict[str, float])
    """On tasks, by TASK/SCORE."""
    error: str = ""
    fatal: bool = False
    """The error would hit every other trial as well (a full disk, say)."""
    orphan: bool = False
    """Its parent's checkpoint cannot be read: it did not begin, and can only be trained from its start."""

    @property
    def ended(self) -> bool:
        return self.status != "running"

    def outcome(self) -> dict[str, Any]:
        """The fields of a Trial that training decides."""
        return {
            "status": {"stopped": "failed"}.get(self.status, self.status),
            "loss": self.loss,
            "bits_per_byte": self.bits_per_byte,
            "curve": self.curve,
            "train_curve": self.train_curve,
            "train_seconds": self.train_seconds,
            "flops": self.flops,
            "device": self.device,
            "pack": self.pack,
            "trunk": self.trunk,
            "scores": self.scores,
            "error": self.error,
        }


class Work(Protocol):
    """One job under way."""

    @property
    def ended(self) -> bool:
        """Whether every proposal of it has."""
        ...

    def advance(self, seconds: float) -> dict[str, Progress]:
        """The newest progress by proposal, after about so many seconds or when one has ended; after its end none."""
        ...

    def close(self) -> None:
        """Give up what has not ended; nothing of it runs when this returns."""
        ...


class Trainer(Protocol):
    """How a proposal becomes a loss. It is pickled and sent to worker processes."""

    @property
    def can(self) -> Can: ...

    def begin(self, job: Job) -> Work:
        """Nothing is trained before the first `advance`."""
        ...


def finish(work: Work) -> dict[str, Progress]:
    """The last progress of each proposal of a job."""
    found: dict[str, Progress] = {}
    while not work.ended:
        found |= work.advance(1.0)
    return found


def check_needs(name: str, strategy: Strategy, trainer: str, can: Can, others: Mapping[str, Strategy]) -> None:
    """UserError where a strategy needs what the trainer cannot do: what, and which strategies fit."""
    missing = lacking(strategy, can)
    if not missing:
        return
    what = " and ".join(WORDS.get(need, need) for need in missing)
    fitting = [other for other, one in others.items() if not lacking(one, can)]
    raise UserError(
        f"--strategy {name} {what}, which {trainer} cannot ({', '.join(WISH[need] for need in missing)}): "
        f"choose one of {', '.join(fitting)}."
    )


WISH = {
    "cuts_short": "only hpt's own trainer can",
    "lengths": "{steps} or {tokens} is missing in it",
    "sizes": "{depth}, {width} or {size} is missing in it",
    "parametrisations": "only hpt's own trainer can",
}


def lacking(strategy: Strategy, can: Can) -> list[str]:
    return sorted(need for need in strategy.needs if not getattr(can, need))


def without_seed(
    proposal: Proposal, target: RunConfig, trials: Iterable[Trial], running: Iterable[Proposal]
) -> Proposal:
    """The proposal for a trainer that has no seeds: with the target's seed, and where that run exists already at a
    neighbouring lr, so that a repeat is never counted as a second opinion."""
    run = replace(proposal.run, seed=target.seed)
    taken = [t.run for t in trials if t.id != proposal.id] + [p.run for p in running if p.id != proposal.id]
    alike = [math.log(other.lr or 1.0) for other in taken if replace(other, lr=None) == replace(run, lr=None)]
    while any(abs(math.log(run.lr or 1.0) - lr) < SAME_LR for lr in alike):
        run = replace(run, lr=float(f"{(run.lr or 1.0) * NEIGHBOUR:.4g}"))
    return replace(proposal, run=run)
