"""What runs inside a worker process: one proposal, in slices, with a typed ending. No Ray here."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from search.records import Proposal
from trainer.calibrate import Calibration, calibrate
from trainer.config import RunConfig
from trainer.counts import evaluation_flops
from trainer.data import Prepared
from trainer.devices import device_name
from trainer.errors import UserError
from trainer.loop import Report, Training


@dataclass(frozen=True, kw_only=True)
class Job:
    """A proposal and what a worker needs to train it."""

    proposal: Proposal
    data: Prepared
    checkpoints: str
    """Directory of trunk checkpoints; on a cluster it is shared."""
    threads: int
    """torch threads; more than one only when a slot owns several cores."""
    seconds_limit: float
    """Hard stop: what is left of the budget for this trial."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a trial is; when `status` is no longer "running" it has ended."""

    status: Literal["running", "finished", "diverged", "stopped", "failed"]
    tokens: int = 0
    train_loss: float | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    curve: tuple[tuple[int, float], ...] = ()
    train_curve: tuple[tuple[int, float], ...] = ()
    train_seconds: float = 0.0
    flops: float = 0.0
    device: str = ""
    trunk: int | None = None
    error: str = ""
    fatal: bool = False
    """The error would hit every other trial as well (a full disk, say)."""

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
            "trunk": self.trunk,
            "error": self.error,
        }


@dataclass
class Worker:
    """Trains one job; `advance` returns about every so many seconds, and for the last time when it has ended."""

    job: Job
    _curve: list[tuple[int, float]] = field(default_factory=list)
    _train_curve: list[tuple[int, float]] = field(default_factory=list)
    _training: Training | None = None

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        self._reports = self._start()

    def _start(self):  # a generator: nothing happens before the first `advance`
        torch.set_num_threads(self.job.threads)
        torch.set_flush_denormal(True)
        proposal, folder = self.job.proposal, Path(self.job.checkpoints)
        self._training = training = Training(proposal.run, self.job.data)
        if proposal.parent is not None:
            training.load(folder / f"{proposal.parent}.safetensors")
        trunk = folder / f"{proposal.id}.safetensors" if proposal.keep else None
        yield from training.reports(proposal.horizon, trunk=trunk, seconds_limit=self.job.seconds_limit)

    def advance(self, seconds: float) -> Progress:
        start = time.perf_counter()
        try:
            for report in self._reports:
                self._note(report)
                if report.status != "running" or time.perf_counter() - start > seconds:
                    return self._progress(report)
            raise AssertionError("training ended without saying how")
        except UserError as error:
            return Progress(status="failed", error=str(error), fatal=True)
        except Exception as error:  # whatever it is, it ends this trial only
            return Progress(status="failed", error=f"{type(error).__name__}: {error}")

    def _note(self, report: Report) -> None:
        if report.train_loss is not None:
            self._train_curve.append((report.tokens, report.train_loss))
        if report.val_loss is not None:
            self._curve.append((report.tokens, report.val_loss))

    def _progress(self, report: Report) -> Progress:
        assert self._training is not None
        ended = report.status != "running"
        run = self._training.run
        return Progress(
            status=report.status,
            tokens=report.tokens,
            train_loss=report.train_loss,
            loss=report.val_loss if report.status == "finished" else None,
            bits_per_byte=report.bits_per_byte,
            curve=tuple(self._curve),
            train_curve=thinned(self._train_curve) if ended else (),
            train_seconds=time.perf_counter() - self._began,
            flops=report.flops + len(self._curve) * evaluation_flops(run),
            device=device_name(self._training.device),
            trunk=self._training.saved_trunk,
            error=report.reason,
        )


def thinned(curve: list[tuple[int, float]], points: int = 200) -> tuple[tuple[int, float], ...]:
    """Every k-th point, the last one always: a history line stays small."""
    every = -(-len(curve) // points) or 1
    return tuple(curve[::-1][::every][::-1])


def calibrate_here(run: RunConfig, data: Prepared, threads: int) -> Calibration:
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return calibrate(run, data)
