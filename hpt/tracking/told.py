"""What a mirror is told of a search, and of a final run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import RunConfig


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """The name of the experiment or group, and what stands above the trials."""

    id: str
    name: str
    uri: str
    """Of MLflow."""
    tags: dict[str, str]
    params: dict[str, Any]
    folder: Path = Path()
    """Where the loggers beside MLflow write."""
    log: tuple[str, ...] = ()
    """Their names."""


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """One run, found again when training is resumed."""

    id: str
    experiment: str
    uri: str
    """Of MLflow."""
    tags: dict[str, str]
    run: RunConfig
    register: str | None = None
    """Name of the registered model that the finished run becomes a version of."""
    folder: Path = Path()
    """Where the loggers beside MLflow write."""
    log: tuple[str, ...] = ()
    """Their names."""
