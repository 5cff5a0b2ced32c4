"""A search and a final run as MLflow has them: one parent run for the search, one child for each trial.

What is missing is always found by comparing the history with what MLflow has, so that a mirror interrupted at any
point is completed by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpt.tracking.server import EXPERIMENT_NOTE, connect, log
from hpt.tracking.told import FinalRun, SearchRun
from hpt.tracking.views import (
    AXES,
    VIEW,
    colour,
    experiment_tags,
    row_metrics,
    run_name,
    run_params,
    trial_metrics,
    view,
)
from search.records import Trial


class SearchWriter:
    """The MLflow side of one search."""

    def __init__(self, run: SearchRun) -> None:
        self.client, self.experiment = connect(run.uri, run.name)
        mine = self.client.search_runs([self.experiment], f"tags.`hpt.search` = '{run.id}'", max_results=50_000)
        self.have = {r.data.tags["hpt.trial"] for r in mine if "hpt.trial" in r.data.tags}
        parents = [r for r in mine if r.data.tags.get("hpt.role") == "search"]
        self.search_id = run.id
        for key, value in experiment_tags(EXPERIMENT_NOTE.format(name=run.name)).items():
            self.client.set_experiment_tag(self.experiment, key, value)
        self.values: dict[str, set[float]] = {name: set() for name in AXES}
        self.cells = list[tuple[str, str]]()  # (N, D), in the order of their colours
        for found in reversed(mine):  # the oldest first
            self._see(found.data.metrics, found.data.params)
        self.axes = tuple[str, ...]()
        self._show()
        self.parent = parents[0].info.run_id if parents else self._create_parent(run)

    def _create_parent(self, run: SearchRun) -> str:
        tags = {"hpt.search": run.id, "hpt.role": "search", **run.tags}
        created = self.client.create_run(self.experiment, tags=tags, run_name=run.name)
        log(self.client, created.info.run_id, run.params, {})
        return created.info.run_id

    def add(self, trials: list[Trial]) -> None:
        for trial in trials:
            if trial.id not in self.have:
                self._add(trial)
                self.have.add(trial.id)
        self._show()

    def _see(self, metrics: Mapping[str, float], params: Mapping[str, Any]) -> int:
        """Take note of what a trial's axes are; which of the sizes and lengths it is one of."""
        for name, values in self.values.items():
            if name in metrics:
                values.add(round(metrics[name], 6))
        cell = str(params.get("N_total")), str(params.get("D"))
        if "log10_lr" in metrics and cell not in self.cells:
            self.cells.append(cell)
        return self.cells.index(cell) if cell in self.cells else 0

    def _show(self) -> None:
        """The view, without axes on which all trials are at one place."""
        axes = tuple(name for name, values in self.values.items() if len(values) > 1 or name == AXES[0])
        if axes != self.axes:
            self.client.set_experiment_tag(self.experiment, VIEW, view(axes))
            self.axes = axes

    def _add(self, trial: Trial) -> None:
        tags = {
            "mlflow.parentRunId": self.parent,
            "hpt.search": self.search_id,
            "hpt.role": "trial",
            "hpt.status": trial.status,
            **{f"hpt.{key}": str(value) for key, value in trial.tags.items()},
        }
        name = run_name(trial.run, trial.horizon) if trial.id != "calibration" else "timing of 20 steps"
        params = run_params(trial.run, trial.horizon)
        metrics = trial_metrics(trial) if trial.id != "calibration" else {"seconds": trial.seconds}
        tags["mlflow.runColor"] = colour(self._see(metrics, params))
        ended = time.time_ns() // 10**6  # the page shows how long a run took: the trial, not this copy of it
        began = ended - round(1e3 * trial.seconds)
        run_id = self.client.create_run(self.experiment, began, tags=tags, run_name=name).info.run_id
        points = {"val_loss": trial.curve, "train_loss": trial.train_curve}
        log(self.client, run_id, params, metrics, points)
        # The tag that says "this trial is here" comes last: a half-written one is written again.
        self.client.set_tag(run_id, "hpt.trial", trial.id)
        good = trial.status in ("finished", "pruned")
        self.client.set_terminated(run_id, "FINISHED" if good else "FAILED", ended)

    def finish(self, recommendation: dict[str, Any], note: str, artefacts: list[Path]) -> None:
        metrics = {
            f"recommended_{k}": recommendation[k]
            for k in ("lr", "max_stable_lr", "expected_regret")
            if recommendation.get(k)
        }
        log(self.client, self.parent, {}, metrics)
        self.client.set_tag(self.parent, "mlflow.note.content", note)
        for path in artefacts:
            self.client.log_artifact(self.parent, str(path))
        self.client.set_terminated(self.parent, "FINISHED")


class FinalWriter:
    def __init__(self, final: FinalRun) -> None:
        self.final = final
        self.client, experiment = connect(final.uri, final.experiment)
        found = self.client.search_runs([experiment], f"tags.`hpt.final` = '{final.id}'")
        if found:
            self.run_id = found[0].info.run_id
            self.client.update_run(self.run_id, status="RUNNING")
            return
        name = f"final, {run_name(final.run, final.run.tokens)}"
        tags = {"hpt.role": "final", "hpt.final": final.id, **final.tags}
        self.run_id = self.client.create_run(experiment, tags=tags, run_name=name).info.run_id
        log(self.client, self.run_id, run_params(final.run, final.run.tokens), {})

    def add(self, rows: list[dict[str, Any]]) -> None:
        from mlflow.entities import Metric

        told = [(row["tokens"], {**row_metrics(row), "tokens": row["tokens"]}) for row in rows]
        values = [Metric(name, v, 0, tokens) for tokens, metrics in told for name, v in metrics.items()]
        for start in range(0, len(values), 1000):  # MLflow's limit of a batch
            self.client.log_batch(self.run_id, values[start : start + 1000])

    def finish(self, result: dict[str, Any], texts: dict[str, str]) -> None:
        numbers = {k: float(v) for k, v in result.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        log(self.client, self.run_id, {}, numbers)
        self.client.set_tag(self.run_id, "hpt.status", result["status"])
        self.client.set_tag(self.run_id, "hpt.checkpoint", result["checkpoint"])
        for name, text in texts.items():
            self.client.log_text(self.run_id, text, name)
        if self.final.register and result["status"] == "finished":
            self._register(self.final.register, result["checkpoint"])
        status = {"finished": "FINISHED", "diverged": "FAILED"}.get(result["status"], "KILLED")
        self.client.set_terminated(self.run_id, status)

    def _register(self, name: str, source: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = source if "://" in source else Path(source).absolute().as_uri()
        self.client.create_model_version(name, source, self.run_id)
