"""The final run: the loop of trainer.loop with what keeps it from being lost. The same on one worker or many."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.addresses import masked
from trainer.architecture.counts import flops_per_token
from trainer.checkpoints.file import pack, step_of, unpack
from trainer.checkpoints.saver import Saver, name_of
from trainer.cohorts.memory import micro_batch
from trainer.config import RunConfig, to_dict
from trainer.data import Prepared
from trainer.data.tokenizer import load_tokenizer
from trainer.devices import peak_flops, pick_device
from trainer.errors import UserError
from trainer.evals.evaluators import evaluate, locate
from trainer.files import parse_json
from trainer.generate import sample_text
from trainer.loop import Report, Training
from trainer.parallel import Parallel
from trainer.storage import Store

ROWS = 1000  # of the log that a checkpoint carries: longer runs log less often
SAMPLE_TOKENS = 48
NOTHING, REFUSED = -1, -2  # instead of the step of a checkpoint
MEMORY = "memory.json"
"""In the run's directory: sequences a pass that memory held, where more did not fit."""
BEST = "best.safetensors"
"""In the run's directory: the weights of its lowest validation loss, where Plan.best asks for them."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to train and how to keep it."""

    run: RunConfig
    store: str
    """Directory of the run: a folder, or the address of an object store."""
    evaluations: int = 20
    """Validations on the way, evenly spread."""
    save_seconds: float = 300.0
    """Between checkpoints."""
    keep: int = 3
    """Newest checkpoints that stay."""
    patience: int | None = None
    """Stop after so many validations without a new lowest loss."""
    stop_seconds: float = math.inf
    """Training time, earlier sessions included, after which the run is stopped with a checkpoint."""
    init_from: str | None = None
    """A checkpoint file whose weights are taken at the start."""
    start_step: int = 0
    """Where in the schedule and the data the run starts; with `init_from` the optimiser's moments come along too."""
    samples: int = 0
    """Samples of text to write with each validation; none of a sharded model."""
    tasks: tuple[str, ...] = ()
    """Evaluations (trainer.evals) to make with each validation; their files must be there."""
    task_limit: int = 500
    """Items of each."""
    shard: bool = False
    """Split parameters and optimiser over the workers (fully_shard)."""
    compile: bool | None = None
    """torch.compile; None: on CUDA."""
    best: bool = False
    """Keep the weights of the lowest validation loss as well, in best.safetensors."""


def final(
    plan: Plan,
    data: Prepared,
    *,
    parallel: Parallel | None = None,
    device: torch.device | None = None,
    say: Callable[[str], None] = lambda text: None,
    started: Callable[[Training], None] = lambda training: None,
) -> Iterator[Row]:
    """Train, from the newest whole checkpoint if there is one. Yields rows of the log, on every worker alike; the
    last has another status than "running". Checkpoints carry the log, so it is whole however often it was resumed."""
    workers, device = parallel or Parallel(), device or pick_device()
    if plan.shard and (plan.samples or plan.tasks):
        raise UserError(
            "A sharded model is neither sampled nor evaluated while it trains: leave --samples, --tasks out."
        )
    if plan.samples and not plan.run.model.causal:
        raise UserError("A masked language model writes no text from left to right: leave --samples out.")
    files = {task: locate(task, None, download=False) for task in plan.tasks}
    run = replace(plan.run, micro_batch=_fitting(plan, workers, device))
    if run.batch // run.model.context < workers.size:
        raise UserError(
            f"A batch of {run.batch // run.model.context} sequences cannot be shared by {workers.size} workers: "
            "use fewer --workers or a larger batch."
        )
    training = Training(run, data, device, workers)
    keeper = _Keeper(plan, training, Saver(Store(plan.store), plan.keep), say)
    keeper.begin()
    started(training)
    every, best, since = max(1, run.steps // plan.evaluations), math.inf, 0
    for value in (row["val_loss"] for row in keeper.log if row["val_loss"] is not None):
        best, since = min(best, value), 0 if value < best else since + 1
    limit = plan.stop_seconds - keeper.before
    for report in _remembering(training.reports(evaluate_every=every, seconds_limit=limit), training, plan):
        if report.val_loss is not None:
            best, since = min(best, report.val_loss), 0 if report.val_loss < best else since + 1
        if report.status == "running" and plan.patience is not None and since >= plan.patience:
            reason = f"{since} validations brought no lower loss than {best:.4f}"
            report = replace(report, status="stopped", reason=reason)
        row = keeper.row(report)
        if plan.best and report.val_loss is not None and report.val_loss == best:
            keeper.save_best()
        if report.val_loss is not None and workers.rank == 0 and (plan.samples or plan.tasks):
            row |= keeper.note(report, *_look(training, data, plan, files))
        yield row
        keeper.after(report)
        if report.status != "running":
            return


def _remembering(reports: Iterator[Report], training: Training, plan: Plan) -> Iterator[Report]:
    """The same; where memory runs out, the run's directory keeps how much did not fit. Alone, training has gone on with
    smaller passes; several workers are started again, and begin with them."""
    begun = training.micro_batch
    try:
        for report in reports:
            if training.micro_batch < begun:
                begun = training.micro_batch
                _note_memory(plan, begun)
            yield report
    except torch.OutOfMemoryError:
        _note_memory(plan, max(1, training.micro_batch // 2))
        raise


def _note_memory(plan: Plan, sequences: int) -> None:
    Store(plan.store).write(MEMORY, json.dumps({"micro_batch": sequences}).encode())


def _look(
    training: Training, data: Prepared, plan: Plan, files: dict[str, Path | None]
) -> tuple[str, dict[str, float]]:
    """(samples, scores by name) of the model as it is."""
    encoding, scores, text = load_tokenizer(data.tokenizer), dict[str, float](), ""
    training.model.eval()
    with training.autocast, torch.no_grad():
        if plan.samples:
            text = sample_text(training.model, encoding, samples=plan.samples, max_tokens=SAMPLE_TOKENS)
        for task, file in files.items():
            found = evaluate(training.model, encoding, task, file, plan.task_limit)
            scores |= {f"{task}/{s.name}": s.value for s in found if s.name.count("/") == 0}
    training.model.train()
    return text, scores


def _fitting(plan: Plan, workers: Parallel, device: torch.device) -> int:
    """Sequences a pass that fit every worker; where one has too little memory, all of them stop."""
    problem = UserError("Another worker's device has too little memory for this run.")
    try:
        fits = micro_batch(plan.run, device, workers.size, plan.shard)
        if (content := Store(plan.store).read(MEMORY)) is not None:
            known = parse_json(content, Store(plan.store).join(MEMORY)).get("micro_batch")
            fits = min(fits, known) if isinstance(known, int) and known > 0 else fits
    except UserError as error:
        fits, problem = 0, error
    if not (fits := workers.least(fits, device)):
        raise problem
    return fits


@dataclass
class _Keeper:
    """Log, clock and checkpoints of a run."""

    plan: Plan
    training: Training
    saver: Saver
    say: Callable[[str], None]
    before: float = 0.0
    """Seconds of earlier sessions."""

    def __post_init__(self) -> None:
        self.log: list[Row] = []
        self.saved, self.began, self.blocked = time.monotonic(), time.monotonic(), 0.0
        self.last = 0, 0.0
        device = self.training.device
        self.peak = peak_flops(self.training.run, device) if device.type == "cuda" else None
        self.every = max(1, self.training.run.steps // ROWS)

    def begin(self) -> None:
        training, plan = self.training, self.plan
        found = self._newest()
        if found is not None:
            tensors, state, name = found
            step = step_of(state, self.saver.store.join(name))
            if state["run"] != json.loads(json.dumps(to_dict(plan.run))):
                raise UserError(
                    f"{self.saver.store.shown} holds another run: choose another --out, or use the arguments it was "
                    "made with."
                )
            training.restore(tensors, self.saver.store.join(name))
            training.step, self.log, self.before = step, state["log"], state["seconds"]
            self.say(f"going on from step {training.step:,} ({self.saver.store.join(name)})")
        elif plan.init_from is not None:
            folder, _, name = plan.init_from.rpartition("/")
            content = Store(folder or ".").read(name)
            if content is None:
                raise UserError(f"There is no checkpoint {masked(plan.init_from)} to start from.")
            source = masked(plan.init_from)
            training.restore(unpack(content, source)[0], source, moments=plan.start_step > 0)
        if found is None and plan.start_step:
            if plan.start_step >= training.run.steps:
                raise UserError(f"--start-step {plan.start_step} lies beyond the run's {training.run.steps} steps.")
            training.step = plan.start_step
        self.last = training.step * training.run.batch, 0.0

    def _newest(self) -> tuple[Mapping[str, Tensor], dict[str, Any], str] | None:
        """The first worker looks for the newest that is whole; the others open the same."""
        workers, device = self.training.parallel, self.training.device
        if workers.rank == 0:
            try:
                found = self.saver.newest(self.say)
                step = NOTHING if found is None else step_of(found[1], self.saver.store.join(found[2]))
            except UserError:
                workers.first(REFUSED, device)  # the others wait for a word
                raise
            workers.first(step, device)
            return found
        step = workers.first(0, device)
        if step == NOTHING:
            return None
        opened = None if step == REFUSED else self.saver.open(name_of(step), check=False)
        if opened is None:
            raise UserError(f"Not every worker can read {self.saver.store.shown}: give --out that all of them share.")
        return *opened, name_of(step)

    def row(self, report: Report) -> Row:
        """Of the log: the report, flat, with this run's clock."""
        left_out = ("status", "reason", "flops", "scores")
        row = {key: value for key, value in asdict(report).items() if key not in left_out}
        row["seconds"] = round(self.before + time.monotonic() - self.began, 3)
        tokens, seconds = self.last
        if report.tokens > tokens:
            row["tokens_per_second"] = round((report.tokens - tokens) / max(1e-9, report.seconds - seconds), 1)
            self.last = report.tokens, report.seconds
            if self.peak:
                speed = row["tokens_per_second"] * flops_per_token(self.training.run.model, self.training.run.predicted)
                row["mfu"] = round(speed / self.peak / self.training.parallel.size, 4)
        if report.val_loss is not None or report.step % (10 * self.every) == 0:
            self.log.append(dict(row))
        row |= {"status": report.status, "reason": report.reason, "saving_seconds": round(self.blocked, 3)}
        return row if report.status == "running" else {**row, "log": self.log}

    def note(self, report: Report, sample: str, scores: dict[str, float]) -> Row:
        """Add a look at the model to this report's row of the log."""
        found: Row = {"scores": scores} if scores else {}
        if self.log and self.log[-1]["step"] == report.step:
            self.log[-1] |= found
        return {**found, "sample": sample} if sample else found

    def after(self, report: Report) -> None:
        """A checkpoint where one is due; a diverged run keeps the last good one."""
        training = self.training
        if report.status == "running":
            due = time.monotonic() - self.saved > self.plan.save_seconds
            if training.parallel.agree(due, training.device):
                self.save()
            return
        if report.status in ("finished", "stopped"):
            self.save()
        self.saver.wait()

    def save_best(self) -> None:
        """The weights alone, without moments."""
        training = self.training
        tensors = {name: tensor for name, tensor in training.tensors().items() if name.startswith("model.")}
        if training.parallel.rank == 0:
            self.saver.store.write(BEST, pack(tensors, {"step": training.step, "run": to_dict(self.plan.run)}))

    def save(self) -> None:
        training, start = self.training, time.monotonic()
        tensors = training.tensors()
        if training.parallel.rank == 0:
            state = {"step": training.step, "run": to_dict(self.plan.run), "log": self.log}
            state["seconds"] = self.before + start - self.began
            self.saver.save(training.step, tensors, state, copied=training.parallel.kind == "fsdp")
        self.saved = time.monotonic()
        self.blocked += self.saved - start
