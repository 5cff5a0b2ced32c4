"""A trial as a row: for spreadsheets, `hpt.compare --table`, Optuna, TensorBoard and W&B."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from search.records import Trial
from trainer.architecture.counts import parameters


def row_of(trial: Trial) -> dict[str, Any]:
    """Units: tokens, seconds, FLOPs, nats a token; parameters total and non-embedding."""
    counted, run = parameters(trial.run.model), trial.run
    return {
        "id": trial.id,
        "lr": run.lr,
        "params": counted.total,
        "params_non_embedding": counted.non_embedding,
        "tokens": trial.horizon,
        "schedule_tokens": run.tokens,
        "batch_tokens": run.batch,
        "depth": run.model.depth,
        "width": run.model.width,
        "weight_decay": run.weight_decay,
        "warmup_tokens": run.warmup,
        "seed": run.seed,
        "stage": trial.tags.get("stage", ""),
        "parent": trial.parent or "",
        "status": trial.status,
        "loss": trial.loss,
        "seconds": trial.seconds,
        "flops": trial.flops,
        "usd": trial.usd,
    }


def real(trials: Iterable[Trial]) -> list[Trial]:
    """Without bills that are no trials (timing, what was cut off)."""
    return [t for t in trials if not t.aside and t.run.lr is not None]


def name_of(trial: Trial) -> str:
    """Its id as a folder, or a run of W&B, may be called, whatever a file says that it is."""
    return re.sub(r"[^\w.-]", "_", trial.id).lstrip(".")
