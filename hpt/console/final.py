"""A final run as its driver sees it: training here or on Ray, followed on the screen, in MLflow and in result.json."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from rich.console import Console

from hpt.console.progress import doing
from hpt.reports.files import write_final_report
from hpt.reports.numbers import duration, short
from hpt.tracking.mirror import FinalMirror
from hpt.tracking.server import ui_command
from hpt.tracking.told import FinalRun
from trainer.architecture.counts import flops_per_token, parameters, run_flops
from trainer.checkpoints.lease import lease
from trainer.checkpoints.saver import FOLDER
from trainer.cohorts.memory import micro_batch, run_bytes
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.devices import device_name, peak_flops, pick_device, usable_cpus
from trainer.errors import UserError
from trainer.storage import Store

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.final import Plan, Row
    from trainer.loop import Training

SAY_SECONDS = 10.0
MIRROR_SECONDS = 5.0
INTERRUPTED = "interrupted"
STOPPING = b"stopping after this step, with a checkpoint\n"


@dataclass
class Follower:
    """Hears the rows of the log."""

    plan: Plan
    final: FinalRun
    data: Prepared
    console: Console
    rows: list[Row] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.mirror = FinalMirror(
            self.final, lambda text: self.console.print(f"{text}: training goes on", style="yellow")
        )
        self.store, self.said, self.mirrored = Store(self.plan.store), time.monotonic(), 0.0
        self.unsent: list[Row] = []
        self.samples = list[str]()
        run = self.plan.run
        size = short(parameters(run.model).total)
        self.console.print(f"training {size} parameters for {run.steps:,} steps at lr {run.lr:.3g} in {self.place}/")

    @property
    def place(self) -> str:
        return _short_path(self.store.join("").rstrip("/"))

    @property
    def last(self) -> Row:
        if not self.rows:
            raise UserError(f"Training ended before its first step; nothing new is in {self.place}.")
        return self.rows[-1]

    def say(self, text: str) -> None:
        self.console.print(text, style="yellow" if "damaged" in text or "lacks" in text else None)

    def row(self, row: Row) -> None:
        self.rows.append(row)
        self.unsent.append(row)
        now = time.monotonic()
        if text := row.get("sample"):
            self.samples.append(f"--- step {row['step']:,}\n{text}\n")
            self.console.print(text, style="dim", markup=False)
        if now - self.mirrored > MIRROR_SECONDS:
            self.mirror.rows(self.unsent)
            self.unsent, self.mirrored = [], now
        if row["status"] == "running" and now - self.said > SAY_SECONDS and row["train_loss"] is not None:
            self.said = now
            self.console.print(self.line(row))

    def line(self, row: Row) -> str:
        run, first = self.plan.run, self.rows[0]
        speed = row.get("tokens_per_second", 0.0)
        left = (run.steps - row["step"]) * run.batch / max(1e-9, speed)
        if row["step"] > first["step"]:  # a longer look is steadier
            left = (row["seconds"] - first["seconds"]) / (row["step"] - first["step"]) * (run.steps - row["step"])
        val = next((r["val_loss"] for r in reversed(self.rows) if r["val_loss"] is not None), None)
        shown = "" if val is None else f", validation {val:.4f}"
        shown += "".join(f", {name} {value:.3f}" for name, value in row.get("scores", {}).items())
        line = f"step {row['step']:,}/{run.steps:,}: loss {row['train_loss']:.4f}{shown}, {short(speed)} tokens/s"
        return f"{line}, {duration(left)} left"

    def close(self, usd_per_hour: float = 0.0) -> dict[str, Any]:
        """Write result.json and end the run in MLflow. usd_per_hour: of all devices together; 0: not known."""
        last, run = self.last, self.plan.run
        log = last.get("log") or self.rows
        result = {
            "status": last["status"],
            "reason": last["reason"],
            "loss": last["val_loss"],
            "bits_per_byte": last["bits_per_byte"],
            "step": last["step"],
            "tokens": last["tokens"],
            "seconds": last["seconds"],
            "usd": last["seconds"] / 3600 * usd_per_hour if usd_per_hour else None,
            "saving_seconds": last["saving_seconds"],
            "curve": [(r["tokens"], r["val_loss"]) for r in log if r["val_loss"] is not None],
            "train_curve": [(r["tokens"], r["train_loss"]) for r in log if r["train_loss"] is not None],
            "lr_curve": [(r["tokens"], r["lr"]) for r in log],
            "grad_norm_curve": [(r["tokens"], r["grad_norm"]) for r in log if r["grad_norm"] is not None],
            "scores": [(r["tokens"], r["scores"]) for r in log if r.get("scores")],
            "checkpoint": self.newest() or "",
        }
        self.store.write("result.json", json.dumps(result).encode())
        if self.samples:
            self.store.write("samples.txt", "\n".join(self.samples).encode())
        self.mirror.rows(self.unsent)
        shown = {**result, "final_val_loss": result["loss"], "peak_lr": run.lr}
        texts = {"samples.txt": "\n".join(self.samples)} if self.samples else {}
        if not self.mirror.close(shown, texts):
            self.say(f"{self.mirror.lacking} lacks a part of this run: give the command again to complete it")
        return result

    def newest(self) -> str | None:
        names = self.store.names(FOLDER)
        return _short_path(self.store.join(names[-1])) if names else None


def _short_path(address: str) -> str:
    """A path below the working directory, from there."""
    here = f"{Path.cwd()}/"
    return address.removeprefix(here)


def train_here(plan: Plan, data: Prepared, follower: Follower) -> None:
    """In this process. Ctrl-C and a request to terminate (a spot machine's notice) stop it with a checkpoint."""
    from trainer.final import final
    from trainer.parallel import Parallel

    device = pick_device()
    trainings: list[Training] = []
    compile = plan.compile if plan.compile is not None else device.type == "cuda"

    def ask(reason: str) -> bool:
        for training in trainings:
            training.interrupted = reason
        return bool(trainings)

    with _alone(follower.store), _signals(ask):
        for row in final(
            plan, data, device=device, parallel=Parallel(compile=compile), say=follower.say, started=trainings.append
        ):
            follower.row(row)


def train_on_ray(plan: Plan, follower: Follower, workers: int, most: int | None) -> None:
    """On a cluster, or this machine's devices, through Ray Train; stopped as train_here is."""
    from trainer.distributed import Cluster, run_on_ray

    cluster = Cluster(workers=workers, most=most, threads=max(1, usable_cpus() // (most or workers)))
    reasons = [""]

    def ask(reason: str) -> bool:
        reasons.append(reason)
        return bool(follower.rows)

    @contextmanager
    def asked() -> Iterator[Callable[[], str]]:
        with _signals(ask):
            yield lambda: reasons[-1]

    with _alone(follower.store):
        run_on_ray(plan, cluster, follower.row, follower.say, asked)


def show_result(follower: Follower, answer: dict[str, Any], usd_per_hour: float) -> tuple[int, dict[str, Any]]:
    """Write and print how it ended: (exit code, result without its log)."""
    console, run = follower.console, follower.plan.run
    result = follower.close(usd_per_hour)
    if follower.store.local is not None:
        told = write_final_report(follower.store.local) or f"report             {follower.place}/report.html"
        console.print(told, soft_wrap=True)
    short_result = {key: value for key, value in result.items() if key != "log"}
    if result["status"] == "diverged":
        lr = lower_lr(run, answer)
        kept = result["checkpoint"] or "none was due yet"
        console.print(f"diverged at step {result['step']:,}: {result['reason']}; last checkpoint: {kept}", style="red")
        console.print(f"try: python -m hpt.train ... --lr {lr:.2g} --out {follower.place}-2", style="red")
        return 1, short_result
    bill = f", ${result['usd']:.2f}" if result["usd"] is not None else ""
    spent = f"{duration(result['seconds'])}{bill}"
    if result["status"] == "stopped":
        console.print(f"stopped at step {result['step']:,}: {result['reason']} ({spent})")
        console.print(f"the same command goes on from {result['checkpoint']}")
        return 130 if result["reason"] == INTERRUPTED else 0, short_result
    bits = "" if result["bits_per_byte"] is None else f", {result['bits_per_byte']:.4f} bits a byte"
    console.print(f"validation loss [bold]{result['loss']:.4f}[/bold] nats a token{bits}, {spent}")
    console.print(f"checkpoint         {result['checkpoint']}")
    console.print(f"review             {ui_command(follower.final.uri, follower.final.experiment)}")
    if follower.store.local is not None and follower.plan.run.model.causal:
        console.print(f"use it             python -m hpt.generate {follower.place} --prompt 'Once'")
    return 0, short_result


def lower_lr(run: RunConfig, answer: dict[str, Any]) -> float:
    """What to try after a divergence: the low end of the search's 50 % interval, or half, whichever is lower."""
    assert run.lr is not None
    low = (answer.get("interval50") or (run.lr, run.lr))[0]
    return min(low, run.lr / 2)


def dry_run(plan: Plan, data: Prepared, workers: int, usd_per_hour: float, console: Console) -> dict[str, Any]:
    """Time 20 steps here and say what the whole run would take."""
    from trainer.cohorts.calibrate import calibrate

    run, device = plan.run, pick_device()
    sequences = micro_batch(run, device, workers, plan.shard)
    with doing(console, "timing 20 steps"):
        measured = calibrate(replace(run, micro_batch=sequences), data, device)
    passes = plan.evaluations * measured.eval_seconds
    seconds = (run.steps * measured.step_seconds + passes) / workers
    peak = peak_flops(run, device)
    mfu = (
        f", MFU {flops_per_token(run.model, run.predicted) * run.batch / measured.step_seconds / peak:.0%}"
        if peak
        else ""
    )
    price = f", ${seconds / 3600 * usd_per_hour * workers:.2f}" if usd_per_hour else ""
    sharing = f" on {workers} devices, if they shared the work perfectly" if workers > 1 else ""
    total = parameters(run.model).total
    memory = run_bytes(run, sequences, device, workers if plan.shard else 1) / 2**30
    console.print(
        f"{short(total)} parameters, {run.steps:,} steps of {run.batch:,} tokens, {run_flops(run):.3g} FLOPs\n"
        f"{short(run.batch / measured.step_seconds)} tokens/s on {device_name(device)}{mfu}\n"
        f"{duration(seconds)}{price}{sharing}; {plan.evaluations} validations take {passes / seconds / workers:.1%}\n"
        f"about {memory:.1f} GiB of memory at {sequences} sequences a pass; "
        f"a checkpoint is {12 * total / 2**30:.2f} GiB, {plan.keep} are kept in {Store(plan.store).shown}\n"
        "dry run: nothing was trained but the steps that were timed, nothing was written"
    )
    return {
        "parameters": total,
        "steps": run.steps,
        "flops": run_flops(run),
        "tokens_per_second": run.batch / measured.step_seconds,
        "hours": seconds / 3600,
        "usd": seconds / 3600 * usd_per_hour * workers,
        "memory_gib": memory,
    }


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Two processes training into one folder would write over each other."""
    if store.local is None:
        with lease(store):
            yield
        return
    lock = FileLock(store.local / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another process is training in {store.local}: wait for it, or choose another --out."
        ) from None
    with lock:
        yield


@contextmanager
def _signals(ask: Callable[[str], bool]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks training to stop after the step under way; `ask` says whether it has begun."""
    previous = {}

    def stop(number: int, _frame: object) -> None:
        begun = ask(INTERRUPTED if number == signal.SIGINT else "asked to terminate")
        os.write(2, STOPPING if begun else b"stopping\n")  # no print: the signal may have come in the middle of one
        if not begun or number == signal.SIGINT:
            signal.signal(signal.SIGINT, previous[signal.SIGINT])  # a second Ctrl-C does not wait
        if not begun:
            raise KeyboardInterrupt

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, stop)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
