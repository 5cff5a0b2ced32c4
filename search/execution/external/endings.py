"""How a command ended, in a trial's words: one table, from the gravest to the best."""

from __future__ import annotations

import math
import re
import signal
from dataclasses import dataclass
from typing import Protocol

from search.execution.contract import Progress
from search.execution.external.losses import Reader, Source, nats, near_misses
from trainer.config import RunConfig

LINES_SHOWN = 20
MEMORY = re.compile(r"out of memory|OutOfMemoryError|std::bad_alloc", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Ending:
    status: str
    """What the guard said: `exit CODE`, `none REASON`, or nothing, where it was killed itself."""
    hung: float
    """Seconds of silence after which it was ended; 0: it was not."""
    steps: int
    log: str


class Settings(Protocol):
    """Of a command, those that decide on an ending."""

    @property
    def source(self) -> Source: ...

    @property
    def unit(self) -> str: ...


def judged(ending: Ending, reader: Reader, settings: Settings, run: RunConfig) -> Progress:
    """Finished, diverged or failed, with a sentence."""
    word, _, rest = ending.status.partition(" ")
    if word == "none":
        return Progress(status="failed", error=f"the trainer's command cannot be started ({rest})", fatal=True)
    if ending.hung:
        return Progress(
            status="failed", error=f"it hung: nothing was printed for {ending.hung:.0f} s; see {ending.log}"
        )
    code = int(rest) if word == "exit" else None
    if code in (126, 127):
        said = _first(reader, "not found") or f"exit code {code}"
        return Progress(status="failed", error=f"the trainer's command cannot be started ({said})", fatal=True)
    loss = nats(reader.points[-1][1], settings.unit) if reader.points else None
    if reader.words:
        return Progress(status="diverged", error=reader.words)
    if loss is not None and not math.isfinite(loss):
        return Progress(status="diverged", error="its loss is not a number")
    cap = run.loss_cap or 1.5 * math.log(max(2, run.model.vocabulary))
    if loss is not None and loss > cap and settings.unit in ("nats", "ppl") and run.model.vocabulary > 1:
        return Progress(
            status="diverged", error=f"its loss of {loss:.4g} is above {cap:.4g}, half as bad again as guessing"
        )
    if code != 0:
        return Progress(status="failed", error=_crash(code, reader, ending.log))
    if reader.backwards:
        return Progress(status="failed", error=f"its reports went backwards: {reader.backwards}")
    if loss is None:
        return Progress(status="failed", error=_nothing(reader, settings.source, ending.log))
    step = reader.points[-1][0]
    if step is not None and abs(step - ending.steps) > max(1, 0.001 * ending.steps):  # some count from 0
        error = (
            f"its last loss is of step {step} of {ending.steps}: have it validate at the end "
            "(an evaluation interval of {steps}, say)"
        )
        return Progress(status="failed", error=error)
    return Progress(status="finished", loss=loss)


def _first(reader: Reader, words: str) -> str:
    return next((line for line in reader.tail if words in line), "")


def _crash(code: int | None, reader: Reader, log: str) -> str:
    if code is None:
        why = "its guard was killed"
    elif code < 0:
        why = f"it was ended by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"signal {-code}"
    else:
        why = f"exit code {code}"
    lines = [re.sub(r"^\[rank0\]:\s?", "", line) for line in list(reader.tail)[-LINES_SHOWN:]]
    hint = ""
    if any(MEMORY.search(line) for line in lines):
        hint = "; its memory ran out: give it fewer sequences a pass, --trainer.micro"
    last = lines[-1].strip() if lines else "it said nothing"
    return f"{why}: {last[:300]}{hint}; see {log}"


def _nothing(reader: Reader, source: Source, log: str) -> str:
    wanted = source.pattern or (f"{source.file}:{source.key}" if source.file else 'hpt {"step": ..., "loss": ...}')
    where = f" in {source.file}" if source.pattern and source.file else ""
    near = near_misses(reader.tail) or list(reader.tail)[-3:]
    shown = " | ".join(line.strip()[:120] for line in near)
    return f"it ended well but said no loss that matches {wanted}{where}; near: {shown or 'it said nothing'}; see {log}"
