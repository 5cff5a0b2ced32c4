"""hpt's own trainer in a worker process: a pack of proposals, in slices, each with a typed ending. No Ray here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from search.execution.contract import EVERYTHING, Can, Job, Progress
from search.execution.trunks import Trunks
from search.records import Proposal
from trainer.architecture.counts import evaluation_flops
from trainer.checkpoints.file import load_checkpoint
from trainer.cohorts.calibrate import Calibration, calibrate
from trainer.cohorts.cohort import Cohort, alike
from trainer.cohorts.packing import pack_size
from trainer.config import RunConfig
from trainer.data import Prepared, here
from trainer.devices import device_name, pick_device
from trainer.errors import UserError
from trainer.evals.suite import Suite
from trainer.loop import Report


def together(one: Proposal, other: Proposal) -> bool:
    """Whether the two can be members of one cohort: one shape, one data order, one step to begin at."""
    begun = one.start == other.start and (one.parent is None) == (other.parent is None)
    return begun and one.run.seed == other.run.seed and alike(one.run, other.run)


@dataclass(frozen=True, kw_only=True)
class Own:
    """hpt's own trainer, as the contract has it."""

    can: Can = EVERYTHING

    def begin(self, job: Job) -> Worker:
        return Worker(job)


class Worker:
    """Trains one job; `advance` returns about every so many seconds with what is new, until all proposals `ended`."""

    def __init__(self, job: Job) -> None:
        self.job, self._reports = job, self._train()
        self._open = {p.id: p for p in job.proposals}

    @property
    def ended(self) -> bool:
        return not self._open

    def advance(self, seconds: float) -> dict[str, Progress]:
        """The newest progress by proposal."""
        start, news = time.perf_counter(), dict[str, Progress]()
        for found in self._reports:
            news |= found
            for name in [name for name, progress in found.items() if progress.ended]:
                del self._open[name]
            if time.perf_counter() - start > seconds:
                break
        return news

    def close(self) -> None:
        self._open.clear()

    def _train(self) -> Iterator[dict[str, Progress]]:  # a generator: nothing happens before the first `advance`
        torch.set_num_threads(self.job.threads)
        torch.set_flush_denormal(True)
        device, waiting = pick_device(), [list(self.job.proposals)]
        while waiting:
            pack = waiting.pop(0)
            fit = pack_size(pack[0].run, device, limit=len(pack))
            if fit < len(pack):
                pack, waiting = pack[:fit], [pack[fit:], *waiting]
            try:
                yield from _Pack(pack, self.job, device).progress()
            except _Orphans as error:
                yield {p.id: Progress(status="failed", orphan=True, error=str(error.causes[p.id])) for p in pack
                       if p.id in error.causes}  # fmt: skip
                waiting = [[p for p in pack if p.id not in error.causes], *waiting]
                waiting = [some for some in waiting if some]
            except torch.OutOfMemoryError as error:  # the memory model was too hopeful: half as many
                pack = [p for p in pack if p.id in self._open]
                half = len(pack) // 2
                if half:
                    waiting = [pack[:half], pack[half:], *waiting]
                else:
                    yield {p.id: Progress(status="failed", error=f"OutOfMemoryError: {error}") for p in pack}
            except UserError as error:
                yield {name: Progress(status="failed", error=str(error), fatal=True) for name in self._open}
                return
            except Exception as error:  # whatever it is, it ends these trials only
                failed = Progress(status="failed", error=f"{type(error).__name__}: {error}")
                yield {p.id: failed for p in pack if p.id in self._open}


class _Orphans(Exception):
    """Proposals whose parent's checkpoint is missing or damaged, with what was found."""

    def __init__(self, causes: dict[str, UserError]) -> None:
        self.causes = causes


def _loaded(cohort: Cohort, proposals: list[Proposal], trunks: Trunks) -> None:
    """Every member continues its parent's trunk; _Orphans where that cannot be."""
    parents = {p.id: trunks.found(p.parent) for p in proposals if p.parent is not None}
    if not parents:
        return
    try:
        cohort.load(list(parents.values()))
    except UserError as error:
        causes = dict[str, UserError]()
        for name, path in parents.items():
            try:
                load_checkpoint(path)
            except UserError as found:
                causes[name] = found
        raise _Orphans(causes or dict.fromkeys(parents, error)) from None


class _Pack:
    """A cohort of proposals, with the curves of each."""

    def __init__(self, proposals: list[Proposal], job: Job, device: torch.device) -> None:
        began, self.store = time.perf_counter(), Trunks(job.checkpoints)
        assert job.data is not None
        data = here(job.data, proposals[0].run)
        self.proposals, self.reading = proposals, None
        self.suite = job.suite and replace(job.suite, tokenizer=data.tokenizer)
        self.cohort = Cohort([p.run for p in proposals], data, device, compile=job.compile)
        _loaded(self.cohort, proposals, self.store)
        self.trunks = {i: self.store.path(p.id) for i, p in enumerate(proposals) if p.keep}
        self.curves: list[list[tuple[int, float]]] = [[] for _ in proposals]
        self.train_curves: list[list[tuple[int, float]]] = [[] for _ in proposals]
        self.startup = (time.perf_counter() - began) / len(proposals)

    def progress(self) -> Iterator[dict[str, Progress]]:
        horizons, suite = [p.horizon for p in self.proposals], self.suite
        look = None if suite is None else lambda model: suite.scores(model, self.proposals[0].run)
        for reports in self.cohort.reports(horizons, trunks=self.trunks, look=look):
            for i in [i for i in self.cohort.saved_trunks if i in self.trunks]:
                self.store.put(self.proposals[i].id)
                del self.trunks[i]
            yield {self.proposals[i].id: self._note(i, report) for i, report in reports.items()}

    def _note(self, member: int, report: Report) -> Progress:
        curve, train_curve = self.curves[member], self.train_curves[member]
        if report.train_loss is not None:
            train_curve.append((report.tokens, report.train_loss))
        if report.val_loss is not None:
            curve.append((report.tokens, report.val_loss))
        evaluated = len(curve) * evaluation_flops(self.proposals[member].run) + self._tasks(member, report)
        return Progress(
            status=report.status,
            tokens=report.tokens,
            train_loss=report.train_loss,
            loss=report.val_loss if report.status == "finished" else None,
            bits_per_byte=report.bits_per_byte,
            curve=tuple(curve),
            train_curve=thinned(train_curve) if report.status != "running" else (),
            train_seconds=self.startup + report.seconds,
            flops=report.flops + evaluated,
            device=device_name(self.cohort.device),
            pack=len(self.proposals),
            trunk=self.cohort.saved_trunks.get(member),
            scores=report.scores,
            error=report.reason,
        )

    def _tasks(self, member: int, report: Report) -> float:
        """FLOPs of a report's scores."""
        if self.suite is None or not report.scores:
            return 0.0
        run = self.proposals[member].run
        self.reading = self.reading or self.suite.reading(run)
        return self.reading.flops(run)


def thinned(curve: list[tuple[int, float]], points: int = 200) -> tuple[tuple[int, float], ...]:
    """Every k-th point, the last one always: a history line stays small."""
    every = -(-len(curve) // points) or 1
    return tuple(curve[::-1][::every][::-1])


def calibrate_here(run: RunConfig, data: Prepared, threads: int, pack: int | None, suite: Suite | None) -> Calibration:
    """The tasks of the suite are part of a trial's evaluation."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    found = calibrate(run, here(data, run), pack=pack, compile=None)
    if suite is None:
        return found
    began = time.perf_counter()
    tasks = suite.seconds(run)
    total = found.total_seconds + time.perf_counter() - began
    return replace(found, eval_seconds=found.eval_seconds + tasks, total_seconds=total)
