"""A trial's trainer that is somebody's command."""

from __future__ import annotations

import math
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

from search.execution.contract import Can, Job, Progress
from search.execution.external.endings import Ending, judged
from search.execution.external.losses import Reader, Source, nats
from search.execution.external.template import Value, fill, names_in, values_of
from search.records import Proposal
from trainer.architecture.counts import run_flops
from trainer.errors import UserError

GUARD = Path(__file__).with_name("guard.py")
LOG_BYTES = 8_000_000
"""Of a trial's output that its log keeps from the beginning; of what comes after, the last lines."""
KEEP_BYTES = 1_000_000
"""Files in {out} that are larger are deleted when the trial has ended, unless --trainer.keep all."""
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "HPT_TOKEN")
"""Of hpt's own surroundings: a trainer that found them would think it is one of several."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Settings of it; picklable."""

    words: tuple[str, ...]
    """With placeholders."""
    source: Source = field(default_factory=Source)
    folder: str = "."
    """Where it is run; absolute."""
    trials: str = "trials"
    """Where each trial has a directory; absolute."""
    diverged: str = ""
    """An expression; what matches it in the output says that the run diverged."""
    unit: str = "nats"
    template: str = ""
    """A file to be filled for {config}."""
    micro: int | None = None
    devices: int = 1
    environment: bool = False
    """It reads HPT_LR and the like, so nothing need stand in the words."""
    keep: str = "none"
    silence: float = 1800.0
    """Seconds without a line after which it hangs."""
    grace: float = 10.0
    """Seconds between SIGTERM and SIGKILL."""

    @property
    def can(self) -> Can:
        if self.environment:
            return Can(curves=True, seeds=True, lengths=True, sizes=True, batches=True, schedules=True)
        used = self.names
        return Can(
            curves="?P<step>" in self.source.pattern or not self.source.pattern,
            seeds="seed" in used,
            lengths=bool(used & {"steps", "tokens"}),
            sizes=bool(used & {"depth", "width", "parameters"}),
            batches=bool(used & {"batch", "sequences", "micro", "accumulation"}),
            schedules=bool(used & {"schedule", "decay_steps", "decay_fraction"}),
        )

    @property
    def names(self) -> set[str]:
        """Placeholders that it uses, those of its template file and of the loss's file included."""
        return names_in((*self.words, self._template_text(), self.source.file))

    def _template_text(self) -> str:
        if not self.template:
            return ""
        try:
            return Path(self.template).read_text("utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"--trainer.template {self.template} cannot be read ({error}).") from None

    def check(self) -> list[str]:
        """UserError where it can be no trainer; else what is doubtful about it, one sentence each."""
        used = self.names
        if "lr" not in used and not self.environment:
            raise UserError("--trainer never says {lr}: every trial would be the same. Put it where the lr belongs.")
        if not Path(self.folder).is_dir():
            raise UserError(f"--trainer.dir {self.folder} is not a directory.")
        if not self.environment and "config" in used and not self.template:
            raise UserError("--trainer says {config}, the filled template file: give it, --trainer.template FILE.")
        if self.environment:
            return []
        return doubts(self.words, used)

    def filled(self, proposal: Proposal) -> tuple[list[str], dict[str, Value]]:
        """The words of a trial's command, and what its placeholders stand for."""
        home = self.home(proposal)
        config = str(home / Path(self.template).name) if self.template else ""
        values = values_of(proposal, out=str(home / "out"), config=config, micro=self.micro, devices=self.devices)
        return [fill(word, values) for word in self.words], values

    def home(self, proposal: Proposal) -> Path:
        return Path(self.trials) / re.sub(r"[^\w.+-]", "_", proposal.id)

    def begin(self, job: Job) -> Working:
        return Working(self, job)


def doubts(words: tuple[str, ...], used: set[str]) -> list[str]:
    """What a command leaves as it is, and what follows."""
    found = list[str]()
    literal = next((w for w in words if re.search(r"min[_-]lr\b", w) and "{" not in w), None)
    if literal and "min_lr" not in used:
        found.append(
            f"{literal} is the same at every lr: the schedule's shape changes with the peak; write {{min_lr}} "
            "or an expression such as {lr/10}"
        )
    if not used & {"depth", "width", "parameters"}:
        found.append("no {depth} or {width}: every trial has the target's size")
    if not used & {"batch", "sequences", "micro", "accumulation"}:
        found.append("no {batch} or {sequences}: every trial has its own batch, taken to be the target's")
    if not used & {"warmup", "warmup_steps", "warmup_fraction"}:
        found.append("no {warmup_steps}: its warmup stays the same while the runs' lengths differ")
    if not used & {"schedule", "decay_steps", "decay_fraction"}:
        found.append("no {schedule}: it trains on a schedule of its own, whatever a strategy asks for")
    if "seed" not in used:
        found.append("no {seed}: a repeat is run at a neighbouring lr instead")
    return found


@dataclass
class Working:
    """The proposals of a job, one after the other."""

    trainer: Command
    job: Job

    def __post_init__(self) -> None:
        self._waiting = list(self.job.proposals)
        self._run: Running | None = None

    @property
    def ended(self) -> bool:
        return not self._waiting and self._run is None

    def advance(self, seconds: float) -> dict[str, Progress]:
        if self._run is None:
            if not self._waiting:
                return {}
            self._run = Running(self.trainer, self._waiting.pop(0), self.job.threads)
        progress = self._run.advance(seconds)
        name = self._run.proposal.id
        if progress.ended:
            self._run = None
        if progress.fatal:
            self._waiting.clear()
        return {name: progress}

    def close(self) -> None:
        """End what runs; nothing of it is left when this returns."""
        self._waiting.clear()
        if self._run is not None:
            self._run.stop()
            self._run.release()
            self._run = None


class Running:
    """One trial's processes, what they say, and how they end."""

    def __init__(self, trainer: Command, proposal: Proposal, threads: int) -> None:
        self.trainer, self.proposal, self._status = trainer, proposal, b""
        self.began = self.heard = time.monotonic()
        self.hung = False
        home = trainer.home(proposal)
        self.out = home / "out"
        shutil.rmtree(self.out, ignore_errors=True)  # of an attempt before: its results are not this one's
        self.out.mkdir(parents=True)
        words, values = trainer.filled(proposal)
        self.steps = int(values["steps"])
        self.reader = Reader(trainer.source, trainer.diverged)
        if trainer.template:
            Path(str(values["config"])).write_text(fill(trainer._template_text(), values), "utf-8")
        self.loss_file = fill(trainer.source.file, values)
        (home / "command.txt").write_text("\n".join(words) + "\n")
        self._log = open(home / "log", "wb")
        self.log = home / "log"
        result = home / "result"
        result.write_bytes(b"")
        self.result = result
        status, far = os.pipe()
        self._far_end = status
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(far), uuid.uuid4().hex, str(trainer.grace), trainer.folder,
             *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(far,),
            env=environment(values, proposal, str(result), threads),
        )  # fmt: skip
        os.close(far)
        self._thread = threading.Thread(target=self._read, name=f"hpt-{proposal.id}", daemon=True)
        self._thread.start()

    # --- what it says -----------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Its output, to the end: into the reader and the log."""
        assert self.process.stdout is not None
        rest, kept = b"", 0
        while chunk := self.process.stdout.read1(1 << 16):  # type: ignore[attr-defined]
            self.heard = time.monotonic()
            if kept < LOG_BYTES:
                self._log.write(chunk[: LOG_BYTES - kept])
                self._log.flush()
            kept += len(chunk)
            *lines, rest = re.split(rb"[\r\n]+", rest + chunk)
            for line in lines:
                self.reader.feed(line.decode("utf-8", errors="replace"))
            rest = rest[-(1 << 16) :]  # a line without an end
        self.reader.feed(rest.decode("utf-8", errors="replace"))
        if kept > LOG_BYTES:
            tail = "\n".join(self.reader.tail)
            self._log.write(f"\n... {kept - LOG_BYTES:,} more bytes, of which the last lines:\n{tail}\n".encode())
        self._log.close()

    # --- how it goes on ---------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> Progress:
        """After at most so many seconds."""
        if not select.select([self._far_end], [], [], max(0.0, seconds))[0]:
            if time.monotonic() - self.heard < self.trainer.silence:
                return self._progress()
            self.hung = True
            self.stop()
        return self._end()

    def stop(self) -> None:
        """End its processes; returns when none is left (or none that the kernel can end)."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        select.select([self._far_end], [], [], self.trainer.grace + 15)

    def _progress(self) -> Progress:
        run = self.proposal.run
        tokens = min(run.tokens, (self.reader.step or 0) * run.batch)
        return Progress(
            tokens=tokens,
            curve=self._curve(),
            train_seconds=time.monotonic() - self.began,
            flops=run_flops(run, tokens),
        )

    def _curve(self) -> tuple[tuple[int, float], ...]:
        """Finite losses by tokens, those whose step is known."""
        batch, unit = self.proposal.run.batch, self.trainer.unit
        points = {step * batch: nats(loss, unit) for step, loss in list(self.reader.points) if step is not None}
        return tuple((t, v) for t, v in sorted(points.items()) if math.isfinite(v))

    def release(self) -> None:
        """Read what is left of all pipes, and close them."""
        while chunk := os.read(self._far_end, 1 << 12):
            self._status += chunk
        os.close(self._far_end)
        self._thread.join(5.0)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        if not self._thread.is_alive():
            self.process.stdout.close()

    def _end(self) -> Progress:
        """All is over: what became of it."""
        self.release()
        for line in self.result.read_text("utf-8", errors="replace").splitlines():
            self.reader.feed(line, spoken=False)
        self.reader.end(self.loss_file)
        ending = Ending(
            status=self._status.decode(errors="replace").strip(),
            hung=self.trainer.silence if self.hung else 0.0,
            steps=self.steps,
            log=str(self.log),
        )
        found = judged(ending, self.reader, self.trainer, self.proposal.run)
        if self.trainer.keep == "none":
            for path in self.out.rglob("*"):
                if path.is_file() and not path.is_symlink() and path.stat().st_size > KEEP_BYTES:
                    path.unlink()
        now = self._progress()
        whole = found.status == "finished"
        tokens = self.proposal.run.tokens if whole else now.tokens
        return replace(found, tokens=tokens, curve=now.curve, train_seconds=now.train_seconds,
                       flops=run_flops(self.proposal.run, tokens))  # fmt: skip


def environment(values: dict[str, Value], proposal: Proposal, result: str, threads: int) -> dict[str, str]:
    """Of the command: hpt's own, every placeholder as HPT_NAME, and where a loss may be put."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN and not name.startswith("HPT_T")}
    given = {f"HPT_{name.upper()}": fill(f"{{{name}}}", values) for name in values}
    return {**kept, **given, "HPT_TRIAL": proposal.id, "HPT_RESULT": result, "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": str(threads)}  # fmt: skip
