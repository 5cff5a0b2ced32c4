"""Mirrors a search, or a final run, into MLflow and the loggers of --log, each on a thread of its own; the history
stays the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from hpt.tracking.background import Background
from hpt.tracking.server import ailment
from hpt.tracking.told import FinalRun, SearchRun
from search.records import Trial
from trainer.errors import UserError

Logger = Literal["tensorboard", "wandb"]
"""Beside MLflow, each an extra of hpt. Its room here, NAME_runs.py, has a SearchWriter and a FinalWriter."""
MLFLOW = "mlflow"


def check_loggers(names: Iterable[str], flag: str = "--log") -> None:
    """UserError where a package is missing, before anything is trained."""
    for name in names:
        found = find_spec(name)
        if found is None or found.origin is None:  # a folder of that name is no package
            raise UserError(f"{flag} {name} needs the package {name}: pip install 'hpt[{name}]'.")


class _Mirrors:
    """One background for MLflow and one for each logger, all told the same."""

    def __init__(self, run: SearchRun | FinalRun, writer: str, warn: Callable[[str], None]) -> None:
        self.run = run
        self.lacking = ""
        """Who lacks a part, once stopped."""

        def ailed(name: str) -> Callable[[Exception], None]:
            if name == MLFLOW:
                return lambda error: warn(ailment(run.uri, error))
            return lambda error: warn(f"--log {name} has failed ({type(error).__name__}: {_line(error)})")

        def connect(name: str) -> Callable[[], Any]:  # imported on its thread: it takes seconds
            return lambda: getattr(import_module(f"hpt.tracking.{name}_runs"), writer)(run)

        self._all = [Background[Any](name, connect(name), ailed(name)) for name in (MLFLOW, *run.log)]

    def stop(self, timeout: float = 60) -> bool:
        """Whether everybody has everything now."""
        end = time.monotonic() + timeout
        self._tell(None)
        short = [b.name for b in self._all if not b.ended(max(0.0, end - time.monotonic()))]
        self.lacking = " and ".join("MLflow" if name == MLFLOW else name for name in short)
        return not self.lacking

    def _tell(self, task: Callable[[Any], None] | None) -> None:
        for background in self._all:
            background.put(task)


class Mirror(_Mirrors):
    """Of a search."""

    run: SearchRun

    def __init__(self, run: SearchRun, warn: Callable[[str], None]) -> None:
        super().__init__(run, "SearchWriter", warn)

    def trials(self, trials: list[Trial]) -> None:
        """Add those that are not there yet."""
        self._tell(lambda writer: writer.add(trials))

    def close(self, recommendation: dict[str, Any], note: str, artefacts: list[Path], timeout: float = 60) -> bool:
        """Write the answer and end the search's own run; whether everybody has everything now."""
        self._tell(lambda writer: writer.finish(recommendation, note, artefacts))
        return self.stop(timeout)


class FinalMirror(_Mirrors):
    """Of a final run."""

    run: FinalRun

    def __init__(self, run: FinalRun, warn: Callable[[str], None]) -> None:
        super().__init__(run, "FinalWriter", warn)

    def rows(self, rows: list[dict[str, Any]]) -> None:
        self._tell(lambda writer: writer.add(rows))

    def close(self, result: Mapping[str, Any], texts: Mapping[str, str], timeout: float = 60) -> bool:
        """End the run with its result; `texts` become artefacts by name."""
        self._tell(lambda writer: writer.finish(result, texts))
        return self.stop(timeout)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
