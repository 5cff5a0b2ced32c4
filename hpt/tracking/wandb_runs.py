"""Runs for Weights & Biases: a group a search, a run a trial, and one for the answer; x is tokens.

What WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY ... say holds. Without a key (`wandb login`) runs are written offline, and
`wandb sync FOLDER/wandb/offline-run-*` sends them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb  # pyright: ignore[reportMissingImports]

from hpt.tracking.row import name_of, real, row_of
from hpt.tracking.told import FinalRun, SearchRun
from hpt.tracking.views import row_metrics, run_params
from search.records import Trial

FOLDER = "wandb"
"""In a search's directory, or a run's."""
SENT = "trials.txt"
"""In that folder: ids of those that are there, a line each."""
SECONDS = 15.0
"""To wait for a server that is away."""


def begin(folder: Path, offline: bool = False, **about: Any) -> Any:
    """A run of W&B; nobody is asked for a key."""
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True, init_timeout=SECONDS)
    wandb.setup(settings=settings)
    mode = None
    if offline or ("WANDB_MODE" not in os.environ and not wandb.login(prompt=False, verify=False)):
        mode = "offline"
    folder.mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", "hpt")
    run = wandb.init(project=project, dir=folder, mode=mode, settings=settings, reinit="create_new", **about)
    run.define_metric("*", step_metric="tokens")
    return run


class Runs:
    """A search's runs, by way of a folder."""

    def __init__(self, folder: Path, name: str, search: str = "", offline: bool = False) -> None:
        """search: its id, which makes its trials' ids; empty: they are new runs. offline: whatever is configured."""
        self.folder, self.name, self.search, self.offline = folder, name, search, offline
        self._sent = folder / SENT
        self.have = set(self._sent.read_text().split("\n")) if self._sent.exists() else set[str]()

    def add(self, trials: Sequence[Trial]) -> int:
        """Those that are not there yet; how many the trials are."""
        for trial in real(trials):
            if trial.id not in self.have:
                self._add(trial)
                self.have.add(trial.id)
                with open(self._sent, "a") as file:
                    file.write(f"{trial.id}\n")
        return len(real(trials))

    def _add(self, trial: Trial) -> None:
        run = self.begin(name_of(trial), "trial", row_of(trial))
        for key, curve in (("train_loss", trial.train_curve), ("val_loss", trial.curve)):
            for tokens, loss in curve:
                run.log({"tokens": tokens, key: loss})
        run.summary.update({"final_val_loss": trial.loss, "status": trial.status})
        run.finish(exit_code=0 if trial.status in ("finished", "pruned") else 1)

    def begin(self, name: str, kind: str, config: Mapping[str, Any]) -> Any:
        """A trial that was written by half is written again, under the same id."""
        known = {"id": f"{self.search}-{name}"} if self.search else {}
        about = {"group": self.name, "job_type": kind, "name": f"{self.name}/{name}", "config": dict(config)}
        return begin(self.folder, self.offline, **about, **known)


class SearchWriter(Runs):
    def __init__(self, run: SearchRun) -> None:
        super().__init__(run.folder / FOLDER, run.name, run.id)
        self.params = run.params

    def finish(self, recommendation: Mapping[str, Any], note: str, artefacts: Sequence[Path]) -> None:
        run = self.begin("answer", "search", self.params)
        kept = ("lr", "interval50", "interval90", "expected_regret", "max_stable_lr")
        run.summary.update({k: recommendation[k] for k in kept if recommendation.get(k)} | {"note": note})
        run.finish()


class FinalWriter:
    """Live: each row when it is told."""

    def __init__(self, final: FinalRun) -> None:
        config = run_params(final.run, final.run.tokens)
        name = f"{final.experiment}/final"
        about = {"group": final.experiment, "job_type": "final", "name": name, "config": config, "id": final.id}
        self._run = begin(final.folder / FOLDER, resume="allow", **about)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            if values := row_metrics(row):
                self._run.log({"tokens": row["tokens"], **values})

    def finish(self, result: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        numbers = {k: v for k, v in result.items() if isinstance(v, int | float | str)}
        self._run.summary.update({**numbers, **texts})
        self._run.finish(exit_code=1 if result["status"] == "diverged" else 0)
