"""A trial as a row, for spreadsheets and `hpt.compare --table`; what the other exports call their parameters."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from hpt.reports.gather import Found
from search.records import Trial
from trainer.architecture.counts import parameters
from trainer.files import write_atomic


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


def trials_of(found: Found) -> list[Trial]:
    """Without bills that are no trials (timing, what was cut off)."""
    return [t for t in found.trials if not t.aside and t.run.lr is not None]


def to_csv(found: Found, address: str) -> int:
    text, rows = io.StringIO(), [row_of(t) for t in trials_of(found)]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["id"])
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(Path(address), text.getvalue().encode())
    return len(rows)
