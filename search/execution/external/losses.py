"""The loss in what a trainer says: a protocol line, a regular expression, or a file with a key."""

from __future__ import annotations

import csv
import json
import math
import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from trainer.errors import UserError

NUMBER = r"[-+]?(?:(?i:nan|inf(?:inity)?)|\d+\.?\d*(?:[eE][-+]?\d+)?)"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
PROTOCOL = re.compile(r"(?:^|\s)hpt (\{.*\})\s*$")
"""hpt {"step": 100, "loss": 3.21}: nothing needs to be configured for it."""
FILE = re.compile(r"^(\S+?\.(?:json|jsonl|csv|log|txt)):(.+)$", re.DOTALL)
LINES_KEPT = 200
LONGEST = 65536  # characters of a line that are looked at


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the loss is; made by `source` from --trainer.loss."""

    pattern: str = ""
    """An expression with a group `loss` (or one group), and perhaps a group `step`; empty: the protocol alone."""
    file: str = ""
    """A file, with placeholders; empty: stdout and stderr."""
    key: str = ""
    """Of a .json (a.b), .jsonl or .csv file (its last row)."""


def source(text: str | None) -> Source:
    """UserError for an expression that is none, or that has no group to read."""
    if text is None:
        return Source()
    found = FILE.match(text)
    if found and not found[1].endswith((".log", ".txt")):
        return Source(file=found[1], key=found[2])
    pattern = (found[2] if found else text).replace("NUM", f"({NUMBER})" if "(?P<loss>" not in text else NUMBER)
    try:
        groups = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--trainer.loss {text!r} is no regular expression ({error}).") from None
    if "loss" not in groups.groupindex and groups.groups != 1:
        raise UserError(
            f"--trainer.loss {text!r} must have one group that is the loss, such as 'val loss (\\S+)', or name it, "
            "(?P<loss>...), beside (?P<step>...); or be a file and a key, such as '{out}/results.json:eval_loss'."
        )
    return Source(pattern=pattern, file=found[1] if found else "")


@dataclass
class Reader:
    """Of one trial: fed line by line, it knows the last loss and the steps."""

    source: Source
    diverged: str = ""
    """Lines that match this say that the run diverged."""
    points: list[tuple[int | None, float]] = field(default_factory=list[tuple[int | None, float]])
    """(step, loss), as they came."""
    train: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    tail: deque[str] = field(default_factory=lambda: deque[str](maxlen=LINES_KEPT))
    words: str = ""
    """The line that said that it diverged."""
    backwards: str = ""
    """A step that came after a larger one, in words."""
    final: bool = False
    """It said itself that the loss is the final one."""

    def __post_init__(self) -> None:
        here = self.source.pattern and not self.source.file
        self._pattern = re.compile(self.source.pattern) if here else None
        self._diverged = re.compile(self.diverged) if self.diverged else None

    def feed(self, line: str, spoken: bool = True) -> None:
        """spoken: it is of the output, not of a file that only holds results."""
        line = ANSI.sub("", line[:LONGEST]).rstrip()
        if not line:
            return
        if spoken:
            self.tail.append(line)
        if "hpt {" in line and (found := PROTOCOL.search(line)):
            self._protocol(found[1])
        elif self._pattern is not None and (found := self._pattern.search(line)):
            self._match(found)
        if self._diverged is not None and not self.words and self._diverged.search(line):
            self.words = line.strip()[:200]

    def _match(self, found: re.Match[str]) -> None:
        groups = found.groupdict()
        try:
            loss = float(groups["loss"] if "loss" in groups else found[1])
            step = int(float(groups["step"])) if groups.get("step") else None
        except (TypeError, ValueError):
            return
        self._add(step, loss)

    def _protocol(self, text: str) -> None:
        try:
            values: dict[str, Any] = json.loads(text)
        except ValueError:
            return
        step, loss, train = values.get("step"), values.get("loss"), values.get("train_loss")
        step = int(step) if _is_number(step) else None
        if _is_number(train) and step is not None:
            self.train.append((step, float(train)))
        if _is_number(loss):
            self._add(step, float(loss))
            self.final = self.final or values.get("final") is True

    def _add(self, step: int | None, loss: float) -> None:
        last = self.points[-1][0] if self.points else None
        if step is not None and last is not None and step < last and not self.backwards:
            self.backwards = f"step {step} was reported after step {last}"
        self.points.append((step, loss))

    @property
    def step(self) -> int | None:
        """The newest step that anything was said of."""
        steps = [s for s, _ in self.points[-1:]] + [s for s, _ in self.train[-1:]]
        return max((s for s in steps if s is not None), default=None)

    def end(self, filled: str) -> None:
        """Read the file of the source, where it has one. filled: its path."""
        if not self.source.file or self.final:
            return
        path = Path(filled)
        try:
            content = path.read_text("utf-8", errors="replace")
        except OSError:
            return
        if self.source.pattern:
            pattern = re.compile(self.source.pattern)
            for line in content.splitlines():
                if found := pattern.search(line):
                    self._match(found)
            return
        value = _keyed(path.suffix, content, self.source.key)
        if _is_number(value):
            self.points.append((None, float(value)))


def _keyed(suffix: str, content: str, key: str) -> Any:
    """The value of a key: dotted in JSON, of the last row that has it in .jsonl and .csv; None: it is not there."""
    try:
        if suffix == ".csv":
            rows: list[Any] = list(csv.DictReader(content.splitlines()))
        elif suffix == ".jsonl":
            rows = [json.loads(line) for line in content.splitlines() if line.strip()]
        else:
            rows = [json.loads(content)]
    except ValueError:
        return None
    for row in reversed(rows):
        value: Any = row
        for part in [key] if isinstance(row, dict) and key in row else key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, str) and re.fullmatch(NUMBER, value.strip()):
            return float(value)
        if _is_number(value):
            return value
    return None


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def near_misses(tail: deque[str]) -> list[str]:
    """Lines that have a number behind the word loss: what a pattern may have been meant to match."""
    pattern = re.compile(r"loss\D{0,20}" + NUMBER, re.IGNORECASE)
    return [line for line in tail if pattern.search(line)][-3:]


def nats(value: float, unit: str) -> float:
    """Perplexities become their logarithms; what else there is stays in its own unit."""
    return math.log(value) if unit == "ppl" and value > 0 else value
