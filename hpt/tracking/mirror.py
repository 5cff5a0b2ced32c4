"""Mirrors a search into MLflow. The only file that imports mlflow; the history stays the truth.

One parent run for the search, one child for each trial. What is missing is always found by comparing the
history with what MLflow has, so that a mirror interrupted at any point is completed by the next `sync`.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock

from hpt.tracking.views import experiment_tags, run_name, run_params, trial_metrics
from search.records import Trial
from trainer.addresses import masked, scrubbed
from trainer.config import RunConfig

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a server that is away must not
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # hold a search for minutes
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def tracking_uri(given: str | None = None) -> str:
    """`given`, else MLFLOW_TRACKING_URI, else mlflow.db in the working directory (SQLite)."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def ui_command(uri: str) -> str:
    if uri.startswith("http"):
        return f"open {masked(uri)}"
    if masked(uri) != uri:  # a password is for the environment
        return "python -m hpt.ui, with MLFLOW_TRACKING_URI set"
    return f"python -m hpt.ui --tracking-uri {uri}"


SQLITE = "sqlite:///"
LOCK_SECONDS = 120.0
BROKEN = (
    "duplicate column", "already exists", "Can't locate revision", "not a database", "disk image is malformed",
    "no such table", "no such column", "out-of-date database schema",
)  # fmt: skip
"""In what SQLite, Alembic and MLflow say of a file whose tables are not what they should be."""

W = TypeVar("W")
Curves = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True, kw_only=True)
class SearchRun:
    """What MLflow shows of a search: the name of its experiment and its parent run's contents."""

    id: str
    name: str
    uri: str
    tags: dict[str, str]
    params: dict[str, Any]


class Background(Generic[W]):
    """Writes to MLflow on a thread of its own: nothing waits for it, and nothing fails with it."""

    def __init__(self, uri: str, connect: Callable[[], W], warn: Callable[[str], None]) -> None:
        self.uri, self.warn, self._connect = uri, warn, connect
        self.failed = False
        self._queue: queue.Queue[Callable[[W], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def put(self, task: Callable[[W], None]) -> None:
        self._queue.put(task)

    def stop(self, timeout: float = 60) -> bool:
        """Whether everything is in MLflow now."""
        self._queue.put(None)
        self._thread.join(timeout)
        return not self.failed and not self._thread.is_alive()

    def _work(self) -> None:
        writer: W | None = None
        while (task := self._queue.get()) is not None:
            if self.failed:
                continue
            try:
                writer = writer or self._connect()
                task(writer)
            except Exception as error:  # whatever ails MLflow, the work goes on
                self.failed = True
                self.warn(ailment(self.uri, error))


EXPERIMENT_NOTE = """\
**{name}**: a search for a peak learning rate. The run named like the experiment is the search: its description
holds the answer, its artefacts the report and pictures. The runs below it are its trials, named by lr, parameters
and tokens; `hpt.status` says how one ended. `final_val_loss` against `log10_lr` is the U-curve (charts); a trial that
diverged has no loss.
"""


class Mirror(Background["_Writer"]):
    """Of a search."""

    def __init__(self, run: SearchRun, warn: Callable[[str], None]) -> None:
        super().__init__(run.uri, lambda: _Writer(run), warn)
        self.run = run

    def trials(self, trials: list[Trial]) -> None:
        """Add those that MLflow does not have yet."""
        self.put(lambda writer: writer.add(trials))

    def close(self, recommendation: dict[str, Any], note: str, artefacts: list[Path], timeout: float = 60) -> bool:
        """Write the answer and end the parent run; whether everything is in MLflow now."""
        self.put(lambda writer: writer.finish(recommendation, note, artefacts))
        return self.stop(timeout)


def connect(uri: str, name: str) -> tuple[Any, str]:
    """(client, id of the experiment called `name`)."""
    import mlflow  # two seconds: paid on the mirror's thread, while other things start

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with _creating(uri):
        client = mlflow.MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(name)
        return client, found.experiment_id if found else client.create_experiment(name)


@contextmanager
def _creating(uri: str) -> Iterator[None]:
    """One process at a time makes a SQLite file's tables, or an experiment in it: two at once break it for ever."""
    if not uri.startswith(SQLITE) or uri == SQLITE:
        yield
        return
    file = Path(uri.removeprefix(SQLITE))
    with FileLock(file.with_name(f".{file.name}.lock"), timeout=LOCK_SECONDS):
        yield


def ailment(uri: str, error: Exception) -> str:
    """What ails MLflow, in a sentence with the remedy where it is known."""
    text = scrubbed(" ".join(str(error).split()), uri)
    if uri.startswith(SQLITE) and any(word in text for word in BROKEN):
        file = uri.removeprefix(SQLITE)
        return f"MLflow's file {file} is broken ({text[:120]}): move it away (mv {file} {file}.broken)"
    return f"MLflow at {masked(uri)} does not answer ({type(error).__name__}: {text[:120]})"


def experiment_of(uri: str, name: str) -> str | None:
    """Id of the experiment called `name`, which has hpt's view afterwards; None: there is none."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    for key, value in experiment_tags(EXPERIMENT_NOTE.format(name=name)).items():
        if key not in found.tags:  # a final run alone, or a search from before there were views
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


class _Writer:
    """The MLflow side of one search."""

    def __init__(self, run: SearchRun) -> None:
        self.client, self.experiment = connect(run.uri, run.name)
        mine = self.client.search_runs([self.experiment], f"tags.`hpt.search` = '{run.id}'", max_results=50_000)
        self.have = {r.data.tags["hpt.trial"] for r in mine if "hpt.trial" in r.data.tags}
        parents = [r for r in mine if r.data.tags.get("hpt.role") == "search"]
        self.search_id = run.id
        for key, value in experiment_tags(EXPERIMENT_NOTE.format(name=run.name)).items():
            self.client.set_experiment_tag(self.experiment, key, value)
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

    def _add(self, trial: Trial) -> None:
        tags = {
            "mlflow.parentRunId": self.parent,
            "hpt.search": self.search_id,
            "hpt.role": "trial",
            "hpt.status": trial.status,
            **{f"hpt.{key}": str(value) for key, value in trial.tags.items()},
        }
        name = run_name(trial.run, trial.horizon) if trial.id != "calibration" else "timing of 20 steps"
        ended = time.time_ns() // 10**6  # the page shows how long a run took: the trial, not this copy of it
        began = ended - round(1e3 * trial.seconds)
        run_id = self.client.create_run(self.experiment, began, tags=tags, run_name=name).info.run_id
        points = {"val_loss": trial.curve, "train_loss": trial.train_curve}
        metrics = trial_metrics(trial) if trial.id != "calibration" else {"seconds": trial.seconds}
        log(self.client, run_id, run_params(trial.run, trial.horizon), metrics, points)
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


def log(
    client: Any, run_id: str, params: dict[str, Any], metrics: dict[str, float], curves: Curves | None = None
) -> None:
    """One batch: params, metrics at step 0, and curves with tokens as the step."""
    from mlflow.entities import Metric, Param

    values = [Metric(k, v, 0, 0) for k, v in metrics.items()]
    for name, points in (curves or {}).items():
        values += [Metric(name, loss, 0, tokens) for tokens, loss in points]
    for start in range(0, max(1, len(values)), 1000):  # MLflow's limit of a batch
        named = [Param(k, str(v)) for k, v in params.items()] if start == 0 else []
        client.log_batch(run_id, values[start : start + 1000], named)


@dataclass(frozen=True, kw_only=True)
class FinalRun:
    """What MLflow shows of a final run: one run, found again when training is resumed."""

    id: str
    experiment: str
    uri: str
    tags: dict[str, str]
    run: RunConfig
    register: str | None = None
    """Name of the registered model that the finished run becomes a version of."""


class FinalMirror(Background["_FinalWriter"]):
    """Of a final run."""

    def __init__(self, run: FinalRun, warn: Callable[[str], None]) -> None:
        super().__init__(run.uri, lambda: _FinalWriter(run), warn)

    def rows(self, rows: list[dict[str, Any]]) -> None:
        self.put(lambda writer: writer.add(rows))

    def close(self, result: dict[str, Any], texts: dict[str, str], timeout: float = 60) -> bool:
        """End the run with its result; `texts` become artefacts by name."""
        self.put(lambda writer: writer.finish(result, texts))
        return self.stop(timeout)


class _FinalWriter:
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

        shown = ("train_loss", "val_loss", "bits_per_byte", "lr", "grad_norm", "tokens_per_second", "mfu")
        values = [
            Metric(name, float(row[name]), 0, row["tokens"])
            for row in rows
            for name in shown
            if row.get(name) is not None and math.isfinite(row[name])
        ]
        values += [Metric(k, v, 0, row["tokens"]) for row in rows for k, v in row.get("scores", {}).items()]
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
