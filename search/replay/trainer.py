"""A trial's trainer that answers from a recorded sweep, as the contract has it."""

from __future__ import annotations

from dataclasses import dataclass, field

from search.budget import CostModel
from search.execution.contract import Can, Job, Progress
from search.records import Proposal
from search.replay.world import World


@dataclass(frozen=True)
class Replay:
    """Of one table."""

    world: World
    cost: CostModel = field(default_factory=lambda: CostModel(evaluations=0))

    @property
    def can(self) -> Can:
        return Can(seeds=True, lengths=True, sizes=True, batches=True, schedules=True,
                   cuts_short=bool(self.world.table.curves))  # fmt: skip

    def begin(self, job: Job) -> Replaying:
        return Replaying(self, list(job.proposals))


@dataclass
class Replaying:
    trainer: Replay
    waiting: list[Proposal]

    @property
    def ended(self) -> bool:
        return not self.waiting

    def advance(self, seconds: float) -> dict[str, Progress]:
        if not self.waiting:
            return {}
        proposal = self.waiting.pop(0)
        trial = self.trainer.world.run(proposal, self.trainer.cost)
        status = "finished" if trial.status == "finished" else "diverged" if trial.status == "diverged" else "failed"
        curve = ((proposal.horizon, trial.loss),) if trial.loss is not None else ()
        progress = Progress(status=status, tokens=proposal.horizon, loss=trial.loss, flops=trial.flops, curve=curve,
                            trunk=trial.trunk, error=trial.error)  # fmt: skip
        return {proposal.id: progress}

    def close(self) -> None:
        self.waiting.clear()
