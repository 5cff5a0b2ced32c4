"""The search directory on disk: configuration, append-only history, recommendation, lock."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from search.records import Recommendation, Trial
from trainer.config import to_dict
from trainer.errors import UserError
from trainer.files import disk_error, read_json, write_atomic


class SearchDir:
    """One search's files. `open` locks it for the life of the process, so that two searches never share one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock", timeout=0)

    @property
    def checkpoints(self) -> Path:
        return self.path.absolute() / "checkpoints"  # workers have another working directory

    def checkpoint(self, trial_id: str) -> Path:
        """Where the trunk checkpoint of a trial lies, if it was kept."""
        return self.checkpoints / f"{trial_id}.safetensors"

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

    def write_config(self, config: dict[str, Any]) -> None:
        self._write("config.json", config)

    def read_config(self) -> dict[str, Any]:
        return read_json(
            self.path / "config.json",
            f"{self.path} is not a search directory: it has no config.json.",
        )

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
        line = json.dumps(trial.to_json(), allow_nan=False) + "\n"
        try:
            whole = len(_whole_lines(path))
            with open(path, "ab") as file:
                file.truncate(whole)
                try:
                    file.write(line.encode())
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(whole)
                    raise
        except OSError as error:
            raise disk_error(error, path) from error

    def read_trials(self) -> list[Trial]:
        """The history. A last line cut off by a crash is passed over; any other damage is an error."""
        path = self.path / "trials.jsonl"
        trials = []
        for number, line in enumerate(_whole_lines(path).splitlines(), start=1):
            try:
                trials.append(Trial.from_json(json.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{path}, line {number} is damaged ({error}): remove that line to go on.") from None
        return trials


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]
