"""The search directory on disk: configuration, append-only history, recommendation, lock."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from search.records import Recommendation, Trial
from trainer.config import to_dict
from trainer.errors import UserError
from trainer.files import disk_error, read_json, write_atomic

FORMAT = 2
"""Of config.json. 1, without a number: hpt 0.1.0, until 2026-11-27. 2: with the data's fingerprint, the calibration's
bill and what a worker's start takes."""


class SearchDir:
    """One search's files. `lock` is held for the life of the process, so that two searches never share one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock", timeout=0)
        self._whole: int | None = None
        """Bytes of trials.jsonl that are whole lines; None: not looked yet."""
        self._journal = threading.Lock()

    @property
    def checkpoints(self) -> Path:
        return self.path.absolute() / "checkpoints"  # workers have another working directory

    def lock(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise UserError(f"{self.path} is in use by a live search: wait for it, or choose another --name.") from None
        except OSError as error:
            raise disk_error(error, self.path / "config.json") from error

    def unlock(self) -> None:
        self._lock.release()

    # --- configuration ------------------------------------------------------------------------------------------

    @property
    def begun(self) -> bool:
        """Whether a search is here, with something to lose."""
        return (self.path / "config.json").exists() and bool(_whole_lines(self.path / "trials.jsonl"))

    def write_config(self, config: dict[str, Any]) -> None:
        self._write("config.json", {"format": FORMAT, **config})

    def read_config(self, *needed: str) -> dict[str, Any]:
        """The configuration of this format or an older one, where fields of newer ones are missing; UserError where one
        that is `needed` is."""
        path = self.path / "config.json"
        found = read_json(path, f"{self.path} is not a search directory: it has no config.json.")
        version = found.get("format", 1)
        if not isinstance(version, int) or version > FORMAT:
            raise UserError(f"{path} has format {version}, and this hpt reads 1 to {FORMAT}: use a newer hpt.")
        if missing := [name for name in needed if name not in found]:
            raise UserError(f"{path} is damaged (it has no {', '.join(missing)}): restore it, or start a new search.")
        return found

    def write_recommendation(self, recommendation: Recommendation, bill: dict[str, Any]) -> None:
        self._write("recommendation.json", {**to_dict(recommendation), "bill": bill})

    def read_recommendation(self) -> dict[str, Any]:
        return read_json(
            self.path / "recommendation.json",
            f"{self.path} has no recommendation yet: finish the search with python -m hpt.search --resume {self.path}.",
        )

    def _write(self, name: str, value: dict[str, Any]) -> None:
        write_atomic(self.path / name, json.dumps(value, indent=2).encode())

    # --- history ------------------------------------------------------------------------------------------------

    def append(self, trial: Trial) -> None:
        """Add one line to trials.jsonl; on the disk when this returns. A line cut off by a crash is dropped."""
        path = self.path / "trials.jsonl"
        line = (json.dumps(trial.to_json(), allow_nan=False) + "\n").encode()
        try:
            whole = len(_whole_lines(path)) if self._whole is None else self._whole
            with open(path, "ab") as file:
                file.truncate(whole)
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(whole)
                    raise
            self._whole = whole + len(line)
        except OSError as error:
            self._whole = None
            raise disk_error(error, path) from error

    def read_trials(self, say: Callable[[str], None] = lambda _: None) -> list[Trial]:
        """The history. A last line cut off by a crash is passed over, a trial that is there twice is named to `say` and
        counted once; any other damage is an error."""
        path, found = self.path / "trials.jsonl", dict[str, Trial]()
        content = _whole_lines(path)
        self._whole = len(content)
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise ValueError("it is not a JSON object")
                trial = Trial.from_json(values)
            except (ValueError, TypeError, KeyError, AttributeError, UserError) as error:
                raise UserError(f"{path}, line {number} is damaged ({error}): remove that line to go on.") from None
            if trial.id in found:
                say(f"{path}, line {number}: trial {trial.id} is there already; the first one counts")
            found.setdefault(trial.id, trial)
        return list(found.values())

    def read_trials_again(self) -> list[Trial]:
        """The same for who reads it every few seconds: lines that were checked before, which a digest beside them says,
        are not checked again."""
        path, note = self.path / "trials.jsonl", self.path / "checked.json"
        content = _whole_lines(path)
        try:
            seen = json.loads(note.read_bytes())
            known = seen["bytes"] if _digest(content[: seen["bytes"]]) == seen["digest"] else 0
        except (OSError, ValueError, TypeError, KeyError):
            known = 0
        if not known:
            found = self.read_trials()
        else:
            try:
                new = [Trial.from_json(json.loads(line)) for line in content[known:].splitlines()]
            except (ValueError, TypeError, KeyError, AttributeError, UserError):
                return self.read_trials()  # which names the line
            old = [Trial.unchecked(json.loads(line)) for line in content[:known].splitlines()]
            self._whole = len(content)
            found = list({trial.id: trial for trial in (*old, *new)[::-1]}.values())[::-1]  # the first one counts
        if known < len(content):
            with contextlib.suppress(OSError):  # it saves time, and no more
                note.write_text(json.dumps({"bytes": len(content), "digest": _digest(content)}))
        return found

    # --- what runs ----------------------------------------------------------------------------------------------

    def journal(self, bills: list[Trial]) -> None:
        """What runs at this moment costs as much, should the process be killed; none: nothing runs."""
        with self._journal:  # by two threads
            if bills:
                self._write("running.json", {"bills": [bill.to_json() for bill in bills]})
            else:
                (self.path / "running.json").unlink(missing_ok=True)

    def settle(self, trials: list[Trial]) -> list[Trial]:
        """Append what a killed process had spent on trials that are not in the history; returns these bills."""
        path = self.path / "running.json"
        if not path.exists():
            return []
        try:
            bills = [Trial.from_json(values) for values in json.loads(path.read_text())["bills"]]
        except (ValueError, TypeError, KeyError, AttributeError, UserError):
            bills = []  # it was written atomically: damage has another cause, and there is nothing to go by
        bills = owed(bills, trials)
        for bill in bills:
            self.append(bill)
        path.unlink(missing_ok=True)
        return bills


def owed(bills: list[Trial], trials: list[Trial]) -> list[Trial]:
    """Bills of a journal that the history does not have, neither as they are nor in the record of their trial."""
    known = {trial.id for trial in trials}
    return [bill for bill in bills if not {bill.id, bill.tags.get("of")} & known]


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]
