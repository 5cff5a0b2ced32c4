"""Where MLflow is, and how it is reached: its address, its client, what ails it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from hpt.tracking.views import VIEW, experiment_tags, view
from trainer.addresses import masked, scrubbed

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a server that is away must not
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # hold a search for minutes
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def tracking_uri(given: str | None = None) -> str:
    """`given`, else MLFLOW_TRACKING_URI, else mlflow.db in the working directory (SQLite)."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def ui_command(uri: str, of: str | Path = "") -> str:
    """What shows a search or a run; `of`: its directory, or the experiment's name."""
    if uri.startswith("http"):
        return f"open {masked(uri)}"
    if uri == tracking_uri() and "://" not in str(of):
        return f"python -m hpt.ui {of}".rstrip()
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

Curves = Mapping[str, Sequence[tuple[int, float]]]


EXPERIMENT_NOTE = """\
**{name}**: a search for a peak learning rate. The run named like the experiment is the search: its description
holds the answer, its artefacts the report and pictures. The runs below it are its trials, named by lr, parameters
and tokens; `hpt.status` says how one ended. `final_val_loss` against `log10_lr` is the U-curve (charts); a trial that
diverged has no loss.
"""


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
    for key, value in {**experiment_tags(EXPERIMENT_NOTE.format(name=name)), VIEW: view()}.items():
        if key not in found.tags:  # a final run alone, or a search from before there were views
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def log(
    client: Any, run_id: str, params: dict[str, Any], metrics: dict[str, float], curves: Curves | None = None
) -> None:
    """One batch: params, metrics at step 0, and curves with tokens as the step, and as a metric that can be an axis."""
    from mlflow.entities import Metric, Param

    values = [Metric(k, v, 0, 0) for k, v in metrics.items()]
    for name, points in (curves or {}).items():
        values += [Metric(name, loss, 0, tokens) for tokens, loss in points]
    values += [Metric("tokens", at, 0, at) for at in sorted({t for c in (curves or {}).values() for t, _ in c})]
    for start in range(0, max(1, len(values)), 1000):  # MLflow's limit of a batch
        named = [Param(k, str(v)) for k, v in params.items()] if start == 0 else []
        client.log_batch(run_id, values[start : start + 1000], named)
