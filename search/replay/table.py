"""A recorded sweep: rows of runs from CSV, JSONL, parquet or hpt's own trials.jsonl, checked and
gathered into cells."""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet

from search.replay.truth import Valley
from search.shapes.ladder import model_of
from trainer.architecture.counts import parameters
from trainer.config import ModelConfig, from_dict
from trainer.errors import UserError

SAME_LR = 0.03  # ln units: 3.45e-4 and 3.453e-4 are one grid point, and no sweep is meant to be finer

ALIASES = {
    "active": ("na", "n_active", "active", "active_params", "active_parameters", "activated_params"),
    "n": ("n", "params", "parameters", "n_params", "non_embedding", "model_size"),
    "d": ("d", "tokens", "train_tokens", "n_tokens"),
    "lr": ("lr", "learning_rate", "peak_lr", "max_lr"),
    "batch": ("bs", "b", "batch", "batch_size", "batch_tokens"),
    "loss": ("smooth loss", "smooth_loss", "val_loss", "final_val_loss", "loss", "final_loss"),
    "depth": ("numl", "depth", "layers", "n_layer"),
    "width": ("h", "width", "d_model", "n_embd"),
    "heads": ("numh", "heads", "n_head"),
    "ffn": ("ffnh", "ffn", "d_ff"),
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which column holds what; None: found by its usual names."""

    n: str | None = None
    """Parameters (non-embedding)."""
    active: str | None = None
    """Those that a token meets in a mixture of experts; where there is such a column, it is N."""
    d: str | None = None
    """Training tokens."""
    lr: str | None = None
    """Peak learning rate."""
    batch: str | None = None
    """Batch, in units of `sequence` tokens."""
    loss: str | None = None
    """Final loss, nats a token; empty, NaN or infinite: the run diverged."""
    sequence: int | None = None
    """Tokens a unit of batch: 1 where the column counts tokens; None: 2048 where it is called bs,
    else 1."""
    depth: str | None = None
    width: str | None = None
    heads: str | None = None
    ffn: str | None = None


@dataclass(frozen=True)
class Cell:
    """Runs of one (N, D, B), by rising lr."""

    log_lr: np.ndarray
    """(points,) distinct to 3 %."""
    loss: np.ndarray
    """(points,) mean of repeated runs; infinite where they diverged."""
    spread: tuple[float, int] = (0.0, 0)
    """Sum of squares of repeated runs around their means, and its degrees of freedom."""


@dataclass(frozen=True)
class Table:
    """A sweep by cells."""

    name: str
    cells: dict[tuple[int, int, int], Cell]
    """By (N, D in tokens, B in tokens)."""
    models: dict[int, ModelConfig]
    """By N: shapes whose counts match."""
    notes: tuple[str, ...] = ()
    """What was merged or left out, one sentence each."""

    @property
    def sizes(self) -> list[int]:
        return sorted({n for n, _, _ in self.cells})

    def batches(self, n: int, d: int) -> list[int]:
        """Measured at (N, D), rising; empty where nothing was."""
        return self._batches.get((n, d), [])

    def valley(self, n: int, d: int, b: int) -> Valley:
        """Of one cell, for the truth."""
        return Valley(self.cells[n, d, b].log_lr, self.cells[n, d, b].loss)

    @cached_property
    def _batches(self) -> dict[tuple[int, int], list[int]]:
        found: dict[tuple[int, int], list[int]] = {}
        for n, d, b in sorted(self.cells):
            found.setdefault((n, d), []).append(b)
        return found


@dataclass
class _Rows:
    """Runs before they are gathered; `models` where the rows name shapes."""

    n: list[int] = field(default_factory=list)
    d: list[int] = field(default_factory=list)
    b: list[int] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    models: dict[int, ModelConfig] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def load_table(path: str | Path, columns: Columns | None = None) -> Table:
    """Read and check a sweep. UserError says what is wrong with the file, and in which row."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"There is no table {path}: give a .csv, .jsonl or .parquet file of runs.")
    records = _read(path)
    if not records:
        raise UserError(f"{path} holds no runs.")
    if {"run", "horizon", "status"} <= set(records[0]):
        rows = _from_trials(records)
    else:
        rows = _from_columns(path, records, columns or Columns())
    return _gather(path, rows)


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path).to_pylist()
    if path.suffix in (".csv", ".gz"):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    raise UserError(f"{path}: a table is a .csv, .csv.gz, .jsonl or .parquet file.")


def _from_trials(records: list[dict[str, Any]]) -> _Rows:
    rows = _Rows()
    for record in records:
        if record["status"] not in ("finished", "diverged"):
            continue
        run = record["run"]
        model = from_dict(ModelConfig, run["model"])
        n = parameters(model).non_embedding
        rows.models[n] = model
        _append(rows, n, record["horizon"], run["batch"], run["lr"], _number(record.get("loss")))
    return rows


def _from_columns(path: Path, records: list[dict[str, Any]], columns: Columns) -> _Rows:
    there = {name.strip().lower(): name for name in records[0]}
    names = {key: _find(path, key, getattr(columns, key), there) for key in ALIASES}
    names["n"] = names["n"] or names["active"]
    if missing := [key for key in ("n", "d", "lr", "batch", "loss") if names[key] is None]:
        raise UserError(
            f"{path} has no column for {', '.join(missing)}: it has {', '.join(records[0])}; "
            f"name them, such as --columns.{missing[0]} NAME."
        )
    unit = columns.sequence or (2048 if str(names["batch"]).lower() == "bs" else 1)
    rows = _Rows()
    if names["active"]:
        records = _one_sparsity(records, str(names["active"]), str(names["n"]), rows.notes)
        names["n"] = names["active"]
    for line, record in enumerate(records, start=1):
        n, d, b, lr, loss = (_number(record.get(names[key] or "")) for key in ("n", "d", "batch", "lr", "loss"))
        for key, value in (("n", n), ("d", d), ("batch", b), ("lr", lr)):
            if not 0 < value < math.inf:
                raise UserError(f"{path}, run {line}: {names[key]} is {value}, and it must be a positive number.")
        _append(rows, round(n), round(d), round(b * unit), lr, loss)
        if round(n) not in rows.models:
            shape = {k: record[names[k] or ""] for k in ("depth", "width", "heads", "ffn") if names[k]}
            rows.models[round(n)] = model_of(
                round(n), **{k: int(_number(v)) for k, v in shape.items() if _number(v) > 0}
            )
    return rows


def _one_sparsity(records: list[dict[str, Any]], active: str, total: str, notes: list[str]) -> list[dict[str, Any]]:
    """Of runs with the same active parameters, those of the total that most have: they are not runs of one model."""
    pairs = [(_number(record.get(active)), _number(record.get(total))) for record in records]
    counts = Counter(pairs)
    kept = {a: max((n, t) for (a_, t), n in counts.items() if a_ == a)[1] for a, _ in counts if a > 0}
    found = [r for r, (a, t) in zip(records, pairs, strict=True) if a not in kept or t == kept[a]]  # bad ones are told
    notes.append(f"N is {active}, the parameters that a token meets.")
    if len(found) < len(records):
        notes.append(f"{len(records) - len(found)} runs with the {active} of others and another {total}: left out.")
    return found


def _find(path: Path, key: str, given: str | None, there: dict[str, str]) -> str | None:
    if given is not None:
        if given.strip().lower() not in there:
            raise UserError(f"{path} has no column {given!r} (for {key}): it has {', '.join(there.values())}.")
        return there[given.strip().lower()]
    return next((there[alias] for alias in ALIASES[key] if alias in there), None)


def _number(value: Any) -> float:
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        return math.nan


def _append(rows: _Rows, n: int, d: int, b: int, lr: float, loss: float) -> None:
    for column, value in zip((rows.n, rows.d, rows.b, rows.lr, rows.loss), (n, d, b, lr, loss), strict=True):
        column.append(value)  # type: ignore[arg-type]


def _gather(path: Path, rows: _Rows) -> Table:
    groups: dict[tuple[int, int, int], list[tuple[float, float]]] = {}
    for n, d, b, lr, loss in zip(rows.n, rows.d, rows.b, rows.lr, rows.loss, strict=True):
        groups.setdefault((n, d, b), []).append((math.log(lr), loss if math.isfinite(loss) else math.inf))
    twice = sum(len(runs) - len(set(runs)) for runs in groups.values())
    notes = rows.notes + ([f"{twice} runs are in the table twice, with the same loss: counted once."] if twice else [])
    cells = {key: _cell(set(runs)) for key, runs in sorted(groups.items())}
    thin = [key for key, cell in cells.items() if np.isfinite(cell.loss).sum() < 3]
    if thin:
        notes.append(f"{len(thin)} cells (N, D, B) with fewer than 3 finished lrs cannot be interpolated: left out.")
    kept = {key: cell for key, cell in cells.items() if key not in thin}
    if not kept:
        raise UserError(f"{path}: no (N, D, batch) has 3 lrs that finished; a sweep to replay needs some.")
    return Table(path.name, kept, rows.models, tuple(notes))


def _cell(runs: Iterable[tuple[float, float]]) -> Cell:
    groups: list[list[tuple[float, float]]] = []
    for run in sorted(runs):
        if groups and run[0] - groups[-1][0][0] < SAME_LR:
            groups[-1].append(run)
        else:
            groups.append([run])
    alive = [[loss for _, loss in g if loss < math.inf] for g in groups]
    means = [float(np.mean(a)) if 2 * len(a) > len(g) else math.inf for a, g in zip(alive, groups, strict=True)]
    squares = sum(float(np.sum((np.array(a) - np.mean(a)) ** 2)) for a in alive if len(a) > 1)
    freedom = sum(len(a) - 1 for a in alive if len(a) > 1)
    return Cell(np.array([np.mean([x for x, _ in g]) for g in groups]), np.array(means), (squares, freedom))
