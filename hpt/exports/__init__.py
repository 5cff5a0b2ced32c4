"""A search in the forms of other tools: one file each, one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hpt.exports.logged import to_tensorboard, to_wandb
from hpt.exports.optuna_study import to_optuna
from hpt.exports.table import to_csv
from hpt.reports.gather import Found

EXPORTS: dict[str, tuple[Callable[[Found, str], int], Callable[[Path], str]]] = {
    "csv": (to_csv, lambda path: str(path / "trials.csv")),
    "optuna": (to_optuna, lambda path: f"sqlite:///{path / 'optuna.db'}"),
    "tensorboard": (to_tensorboard, lambda path: str(path / "tensorboard")),
    "wandb": (to_wandb, lambda path: str(path / "wandb")),
}
"""By name: writes a search to an address and says how many trials; the address where none is given."""
