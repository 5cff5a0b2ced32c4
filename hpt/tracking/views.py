"""What MLflow shows: names, parameters and metrics of runs; and how its page shows a search at first: columns, order
and charts, as JSON for the experiment's tags.

MLflow keeps a view in the browser unless the address names a shared one; that is an experiment's tag, which its page
reads as plain JSON too (seen in MLflow 3.17). Another version that does not know it shows its own default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hpt.reports.chart import LIGHT
from hpt.reports.marks import COLOURS
from hpt.reports.numbers import short
from search.records import Trial
from trainer.architecture.counts import parameters
from trainer.config import RunConfig, knobs, written
from trainer.devices import peak_of

KEY = "hpt"
"""Names the view in an address."""
COLUMNS = (
    "metrics.`final_val_loss`",
    "params.`lr`",
    "params.`N_total`",
    "params.`D`",
    "tags.`hpt.stage`",
    "tags.`hpt.status`",
)
SECTION = "search"


VIEW = f"mlflow.sharedViewState.{KEY}"
WORKFLOW = "workflowType=machine_learning"
"""In an address: MLflow's pages of model training, not those of its language-model tools."""
AXES = ("log10_lr", "log10_N", "log10_D", "log10_B")
"""What trials may differ in, as metrics."""


def experiment_tags(note: str) -> dict[str, str]:
    """Tags of a search's experiment: its kind, its note and its primary metric."""
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": note,
        "mlflow.experiment.primaryMetric.name": "final_val_loss",
    }


def colour(cell: int) -> str:
    """Of runs of one size and number of tokens, that a U is seen among others; `cell` counts such pairs."""
    return LIGHT[f"c{cell % COLOURS}"]


def view(axes: Sequence[str] = AXES) -> str:
    """Best loss first; loss against lr, the axes in which trials differ beside each other, and the curves against
    tokens. For the experiment's tag VIEW."""
    beside = [*axes, "final_val_loss"]
    charts = [
        chart("u", "SCATTER", xaxis=axis("log10_lr"), yaxis=axis("final_val_loss"), runsCountToCompare=500),
        curves("train_loss"),
        chart("parallel", "PARALLEL", selectedParams=[], showAllRuns=True, selectedMetrics=beside),
    ]
    found = {
        "searchFilter": "",
        "orderByKey": "metrics.`final_val_loss`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": list(COLUMNS),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": SECTION, "name": "Colours: size and tokens", "display": True,
             "isReordered": False, "deleted": False, "isGenerated": False, "columns": 2, "cardHeight": 420},
        ],
    }  # fmt: skip
    return json.dumps(found)


def curves(metric: str) -> dict[str, Any]:
    """A line a run, against `tokens`, a metric logged with it. (Most trials have one validation loss: no line.)"""
    about = {"metricKey": metric, "selectedMetricKeys": [metric], "useGlobalXaxisKey": False}
    return chart(metric, "LINE", **about, xAxisKey="metric", selectedXAxisMetricKey="tokens", runsCountToCompare=50)


def chart(uuid: str, kind: str, **more: Any) -> dict[str, Any]:
    about = {"uuid": uuid, "type": kind, "metricSectionId": SECTION, "runsCountToCompare": 20}
    return {**about, "deleted": False, "isGenerated": False, **more}


def axis(metric: str) -> dict[str, str]:
    return {"key": metric, "type": "METRIC"}


def pages(server: str, experiment: str) -> dict[str, str]:
    """Addresses of an experiment's table and of its charts, in this view."""
    base = f"{server}#/experiments/{experiment}/runs?{WORKFLOW}&viewStateShareKey={KEY}"
    return {"table": base, "charts": f"{base}&compareRunsMode=CHART"}


def run_name(run: RunConfig, horizon: int) -> str:
    return f"lr {run.lr:.2e}, {short(parameters(run.model).total)}, {short(horizon)} tokens"


def run_params(run: RunConfig, horizon: int) -> dict[str, Any]:
    """What differs between trials, flat."""
    model = run.model
    counted = parameters(model)
    return {
        "lr": run.lr,
        "N_total": counted.total,
        "N_non_embedding": counted.non_embedding,
        "D": horizon,
        "B": run.batch,
        "depth": model.depth,
        "width": model.width,
        "heads": model.heads,
        "context": model.context,
        "schedule": run.schedule,
        "warmup": run.warmup,
        "weight_decay": run.weight_decay,
        "parametrisation": run.parametrisation,
        "seed": run.seed,
        **{name: written(value) for name, value in knobs(run).items()},
    }


def trial_metrics(trial: Trial) -> dict[str, float]:
    """Numbers that the UI can plot; lr too, because it plots metrics only. A diverged trial has no loss."""
    peak = peak_of(trial.device)
    values = {
        "mfu": trial.flops / trial.train_seconds / peak if peak and trial.train_seconds else None,
        "lr": trial.lr,
        "log10_lr": math.log10(trial.lr),
        "log10_N": math.log10(parameters(trial.run.model).total),
        "log10_D": math.log10(trial.horizon),
        "log10_B": math.log10(trial.run.batch),
        "final_val_loss": trial.loss,
        "bits_per_byte": trial.bits_per_byte,
        "seconds": trial.seconds,
        "usd": trial.usd,
        "tokens_per_second": trial.tokens_per_second or None,
        "flops": trial.flops,
    }
    return {k: float(v) for k, v in {**values, **trial.scores}.items() if v is not None}


def row_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a row of a final run's log; a loss that is none has no place in a chart."""
    shown = ("train_loss", "val_loss", "bits_per_byte", "lr", "grad_norm", "tokens_per_second", "mfu")
    values = {name: row.get(name) for name in shown} | row.get("scores", {})
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}
