"""`python -m hpt.export DIR --to csv|optuna|tensorboard|wandb`: a search for the tools that you look at runs with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from hpt.console import cli
from hpt.reports.gather import gather
from trainer.addresses import masked


@dataclass(frozen=True, kw_only=True)
class ExportConfig(cli.Common):
    """Write a search's trials in the form of another tool. MLflow has them anyway (hpt.ui)."""

    path: tyro.conf.Positional[Path]
    """Directory of a search."""
    to: Literal["csv", "optuna", "tensorboard", "wandb"] = "csv"
    """csv: a table (hpt.compare reads it); optuna: a study for optuna-dashboard; tensorboard: a run a trial; wandb:
    offline runs, which wandb sync sends."""
    out: str | None = None
    """File, folder or storage (sqlite:///FILE); default: in the directory."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(ExportConfig, argv, "hpt.export")
    found = gather(config.path)
    from hpt.exports import EXPORTS

    write, default = EXPORTS[config.to]
    out = config.out or default(config.path)
    with config.console().status(f"writing {masked(out)}"):
        count = write(found, out)
    config.console().print(f"{count} trials written: {masked(out)}")
    config.answer({"trials": count, "out": masked(out)}, masked(out))
    return 0


if __name__ == "__main__":
    cli.run(main)
