"""A cohort: runs that differ only in values that leave tensor shapes alone, in lock step on the same batches.

Fused it is one batched program (trainer.cohorts.fused), which keeps a GPU busy with models too small to do so alone. In
turn its members share a warm process and nothing else: on a CPU that is the faster way from about 0.4M parameters on,
where calls no longer cost more than what they compute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.architecture.counts import run_flops
from trainer.architecture.model import Transformer
from trainer.cohorts.fused import Fused
from trainer.cohorts.memory import micro_batch
from trainer.cohorts.population import not_carried
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.devices import pick_device
from trainer.errors import UserError
from trainer.loop import CHECK_EVERY, Report, Status, Training, divergence
from trainer.parallel import Parallel
from trainer.schedule import decay_start, multiplier, warmup_steps

OWN = (
    "tokens", "lr", "schedule", "warmup", "cooldown", "final_fraction", "weight_decay", "betas", "eps", "clip",
    "loss_cap", "seed",
)  # fmt: skip
"""Fields of RunConfig in which members of a cohort may differ."""


def alike(one: RunConfig, other: RunConfig) -> bool:
    """Whether the two can be members of one cohort."""
    return replace(other, **{name: getattr(one, name) for name in OWN}) == one


class InTurn:
    """The same members one after the other, step by step. Same interface as trainer.cohorts.fused.Fused."""

    def __init__(self, runs: Sequence[RunConfig], data: Prepared, device: torch.device, compile: bool = False) -> None:
        fit = micro_batch(runs[0], device)  # one shape, and one trains at a time
        runs = [replace(run, micro_batch=fit) for run in runs]
        self.trainings = [Training(run, data, device, Parallel(compile=compile)) for run in runs]
        for training in self.trainings[1:]:
            training.train_batches = self.trainings[0].train_batches

    @property
    def step_count(self) -> int:
        return self.trainings[0].step

    def train_step(self) -> tuple[Tensor, Tensor]:
        losses, norms = zip(*(training.train_step() for training in self.trainings), strict=True)
        return torch.stack(losses), torch.stack(norms)

    def evaluate(self) -> list[float]:
        return [training.evaluate() for training in self.trainings]

    def keep(self, indices: Sequence[int]) -> None:
        self.trainings = [self.trainings[i] for i in indices]

    def model_of(self, index: int) -> Transformer:
        return self.trainings[index].model

    def save(self, index: int, path: Path) -> None:
        self.trainings[index].save(path)

    def load(self, paths: Sequence[Path]) -> None:
        for training, path in zip(self.trainings, paths, strict=True):
            training.load(path)
        steps = sorted({training.step for training in self.trainings})
        if len(steps) > 1:
            raise UserError(f"Members of a cohort must be at the same step, and these are at {steps}.")


class Cohort:
    """Members are known by their position in `runs`, also after others have left.

    The data order is that of the first run's seed for all; each member's weights start from its own seed.
    """

    def __init__(
        self,
        runs: Sequence[RunConfig],
        data: Prepared,
        device: torch.device | None = None,
        *,
        fused: bool | None = None,
        compile: bool = False,
    ) -> None:
        """fused: None chooses it on CUDA where there is more than one member. compile: by torch.compile; cohorts of one
        shape in one process share what was compiled, processes share it on disk."""
        for number, run in enumerate(runs):
            if run.lr is None:
                raise UserError("This run has no learning rate: give --lr, or search for one.")
            if not alike(runs[0], run):
                raise UserError(
                    f"Member {number} of a cohort differs from the first in more than {', '.join(OWN)}: "
                    "train it in another cohort."
                )
        device = device or pick_device()
        odd = not_carried(runs[0])
        if fused and odd:
            raise UserError(f"A fused cohort does not carry {', '.join(odd)}: its members are trained in turn.")
        fused = (device.type == "cuda" and len(runs) > 1 and not odd) if fused is None else fused
        self.runs, self.data, self.device = list(runs), data, device
        self.engine = (Fused if fused else InTurn)(runs, data, device, compile)
        self.members = list(range(len(runs)))
        """Who is still training."""
        self.saved_trunks: dict[int, int] = {}
        """Tokens at which `reports` saved a member's trunk."""
        self._seconds = 0.0
        self._first_step = 0

    def keep(self, members: Sequence[int]) -> None:
        """Go on with these members alone (a subset of `members`), as Hyperband's halving does."""
        members = [m for m in self.members if m in set(members)]
        if members and members != self.members:
            self.engine.keep([self.members.index(m) for m in members])
        self.members = members

    def save(self, member: int, path: Path) -> None:
        """A checkpoint that `trainer.loop.Training` and `load` continue from."""
        self.engine.save(self.members.index(member), path)

    def load(self, paths: Sequence[Path]) -> None:
        """Continue every member from a checkpoint of its own; all must be at the same step."""
        self.engine.load(paths)
        self._first_step = self.engine.step_count

    def reports(
        self,
        horizons: Sequence[int] | None = None,
        *,
        trunks: Mapping[int, Path] | None = None,
        look: Callable[[Transformer], dict[str, float]] | None = None,
    ) -> Iterator[dict[int, Report]]:
        """Train every member to its horizon in tokens (default: its whole schedule), yielding reports by member about
        every CHECK_EVERY steps; the last of a member tells how it ended, and it has left then.

        Between reports `keep` may drop members. trunks: where to save a member's checkpoint from which it can be
        continued to a longer horizon. look: scores of a member that has finished, for its last report.
        """
        ends = [run.steps if horizons is None else min(run.steps, run.steps_at(horizons[m]))
                for m, run in enumerate(self.runs)]  # fmt: skip
        losses: list[Tensor] = []
        norms = torch.zeros(len(self.members))
        began = time.perf_counter()
        while self.members:
            step = self.engine.step_count
            for member, path in (trunks or {}).items():
                trunk = min(decay_start(self.runs[member]), ends[member])
                if step == trunk and member in self.members and member not in self.saved_trunks:
                    self.save(member, path)
                    self.saved_trunks[member] = step * self.runs[member].batch
            if done := [m for m in self.members if step >= ends[m]]:
                yield self._finish(done, look)
                continue
            loss, norms = self.engine.train_step()
            losses.append(loss)
            step += 1
            if step % CHECK_EVERY and step < min(ends[m] for m in self.members):
                continue
            values = torch.stack(losses).T.tolist()
            losses.clear()
            now = time.perf_counter()
            self._seconds, began = self._seconds + (now - began) / len(self.members), now
            yield self._check(values, norms.tolist())

    def _check(self, losses: list[list[float]], norms: list[float]) -> dict[int, Report]:
        """Reports of the steps since the last check; who diverged has left afterwards."""
        reports: dict[int, Report] = {}
        for member, mine, norm in zip(self.members, losses, norms, strict=True):
            run = self.runs[member]
            more: dict[str, Any] = {"train_loss": sum(mine) / len(mine), "grad_norm": norm}
            if reason := divergence(run, mine, warm=self.engine.step_count > warmup_steps(run)):
                reports[member] = self._report(member, "diverged", grad_norm=norm, reason=reason)
            else:
                reports[member] = self._report(member, "running", **more)
        self.keep([m for m, report in reports.items() if report.status == "running"])
        return reports

    def _finish(
        self, done: list[int], look: Callable[[Transformer], dict[str, float]] | None = None
    ) -> dict[int, Report]:
        """Validation of those who reached their horizon; they leave."""
        began, count = time.perf_counter(), len(self.members)
        found = dict(zip(self.members, self.engine.evaluate(), strict=True))
        self._seconds += (time.perf_counter() - began) / count
        reports = {}
        for member in done:
            loss = found[member]
            if reason := divergence(self.runs[member], [loss], warm=True):
                reports[member] = self._report(member, "diverged", reason=reason)
            else:
                known = self.runs[member].objective == "next" and not math.isnan(self.data.bytes_per_token)
                bits = loss / math.log(2) / self.data.bytes_per_token if known else None
                began, scores = time.perf_counter(), dict[str, float]()
                if look is not None:
                    scores = look(self.engine.model_of(self.members.index(member)))
                    self._seconds += (time.perf_counter() - began) / count
                reports[member] = self._report(member, "finished", val_loss=loss, bits_per_byte=bits, scores=scores)
        self.keep([m for m in self.members if m not in reports])
        return reports

    def _report(self, member: int, status: Status, **more: Any) -> Report:
        run, step = self.runs[member], self.engine.step_count
        return Report(
            status=status,
            step=step,
            tokens=step * run.batch,
            lr=(run.lr or 0.0) * multiplier(run, max(0, step - 1)),
            seconds=self._seconds,
            flops=run_flops(run, (step - self._first_step) * run.batch),
            **more,
        )
