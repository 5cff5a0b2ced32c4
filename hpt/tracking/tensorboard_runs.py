"""Curves and hyperparameters for TensorBoard, a run a trial; its step is tokens.

`tensorboard --logdir searches` shows all searches. TensorBoard reads whatever lies in its folder: a trial is written
beside it and moved in whole, so that what is there is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from hpt.tracking.row import name_of, real, row_of
from hpt.tracking.told import FinalRun, SearchRun
from hpt.tracking.views import row_metrics, run_params
from search.records import Trial

FOLDER = "tensorboard"
"""In a search's directory, or a run's."""


class Runs:
    """The runs in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, trials: Sequence[Trial]) -> int:
        """Those that are not there yet; how many the trials are."""
        for trial in real(trials):
            if not (self.folder / name_of(trial)).exists():
                self._add(trial)
        return len(real(trials))

    def _add(self, trial: Trial) -> None:
        aside = self.folder.with_name(f".{self.folder.name}-unfinished")
        shutil.rmtree(aside, ignore_errors=True)
        with SummaryWriter(str(aside)) as writer:
            for name, curve in (("val_loss", trial.curve), ("train_loss", trial.train_curve)):
                for tokens, loss in curve:
                    writer.add_scalar(name, loss, tokens)
            loss = trial.loss if trial.loss is not None else float("nan")
            writer.add_hparams(told(row_of(trial)), {"final_val_loss": loss}, run_name=".")
        self.folder.mkdir(parents=True, exist_ok=True)
        os.replace(aside, self.folder / name_of(trial))


class SearchWriter(Runs):
    def __init__(self, run: SearchRun) -> None:
        super().__init__(run.folder / FOLDER)

    def finish(self, recommendation: Mapping[str, Any], note: str, artefacts: Sequence[Path]) -> None:
        shutil.rmtree(self.folder / "answer", ignore_errors=True)  # of a search that was topped up
        with SummaryWriter(str(self.folder / "answer")) as writer:
            writer.add_text("answer", note)


class FinalWriter:
    """Live: each row when it is told."""

    def __init__(self, final: FinalRun) -> None:
        self.final = final
        self._writer: SummaryWriter | None = None

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if self._writer is None:  # a run that goes on repeats steps since its checkpoint: the old ones are hidden
                self._writer = SummaryWriter(str(self.final.folder / FOLDER), purge_step=row["tokens"], flush_secs=5)
            for name, value in row_metrics(row).items():
                self._writer.add_scalar(name, value, row["tokens"])

    def finish(self, result: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        if self._writer is None:
            return
        for name, text in texts.items():
            self._writer.add_text(name, text)
        if (loss := result.get("final_val_loss")) is not None:
            run = told(run_params(self.final.run, self.final.run.tokens))
            self._writer.add_hparams(run, {"final_val_loss": loss}, run_name=".")
        self._writer.close()


def told(values: Mapping[str, Any]) -> dict[str, Any]:
    """What TensorBoard takes for a hyperparameter."""
    return {k: v for k, v in values.items() if isinstance(v, int | float | str) and k != "loss"}
