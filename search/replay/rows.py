"""Runs read from a file, one by one: CSV, JSONL, parquet, or hpt's own trials.jsonl; with their loss curves."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from search.replay.batches import NEIGHBOURS, batches
from search.replay.columns import COUNTED, Columns, find, plain, unit_of
from search.replay.files import flat, number, records_of
from search.shapes.ladder import model_of
from trainer.architecture.counts import parameters
from trainer.config import ModelConfig, from_dict
from trainer.errors import UserError

MOST_STEPS = 1e7  # of one run: beyond, a batch that is said to be in tokens is in sequences
N_OF_SHAPE = "12 x depth x width^2"
ENDED = ("finished", "completed", "complete", "done", "success", "succeeded", "ok", "")
DIVERGED = ("diverged", "nan", "exploded")
TRUE = ("1", "1.0", "true", "yes", "y", "t")


@dataclass
class Row:
    """One run."""

    n: int
    d: int
    b: int
    """Tokens."""
    lr: float
    loss: float
    """Infinite: diverged."""
    line: int
    """In the file, from 1, its header not counted."""
    seed: str | None = None
    curve: np.ndarray | None = None
    """(points, 2) of (tokens, loss), tokens rising."""
    total: float = math.nan


@dataclass
class Rows:
    """All of a file; `models` by N, `notes` of what was left out."""

    rows: list[Row] = field(default_factory=list)
    models: dict[int, ModelConfig] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    """As they are in the file; `Row.line` counts them from 1."""
    names: dict[str, str | None] = field(default_factory=dict)
    """What was taken for what: a column, or a number that all runs have."""

    def note(self, count: int, words: str) -> None:
        if count:
            self.notes.append(f"{count} runs {words}")


def read(
    path: Path,
    columns: Columns,
    context: int | None = None,
    curves: Path | None = None,
    fallback: Mapping[str, str] | None = None,
) -> Rows:
    """UserError says what is wrong with the file, and in which run. fallback: numbers, as text, for columns that are
    not there."""
    records = flat(records_of(path))
    if {"run", "horizon", "status"} <= set(records[0]):
        return _from_trials(path, records)
    there = list(dict.fromkeys(name for record in records for name in record))
    names = find(path, columns, there, fallback)
    found = _from_columns(path, records, names, context)
    found.records, found.names = records, names
    if curves is not None:
        _add_curves(path, found, records, names["run"], curves)
    return found


def _from_trials(path: Path, records: list[dict[str, Any]]) -> Rows:
    found, cut, trained = Rows(), 0, 0
    for line, record in enumerate(records, start=1):
        run = record["run"]
        if record["status"] not in ("finished", "diverged"):
            continue
        if record["horizon"] != run["tokens"]:
            cut += 1
            continue
        model = from_dict(ModelConfig, run["model"])
        n, loss = parameters(model).non_embedding, number(record.get("loss"))
        found.models[n] = model
        row = Row(n, record["horizon"], run["batch"], run["lr"], loss if loss == loss else math.inf, line)
        own = record.get("curve") or []
        row.seed = str(run["seed"])
        row.curve = _curve(path, line, own if len(own) > 1 else record.get("train_curve"))
        trained += len(own) <= 1 and row.curve is not None
        found.rows.append(row)
    found.note(trained, "have training losses on the way and one validation loss: those are their curves.")
    found.note(cut, "were cut short before their lr had come down: left out.")
    return found


def _from_columns(path: Path, records: list[dict[str, Any]], names: dict[str, str | None], context: int | None) -> Rows:
    found, left, bare = Rows(), 0, 0
    step, perplexity = batches(records, names, context), is_perplexity(names["loss"])
    names |= dict.fromkeys(set(NEIGHBOURS) - set(step.factors))  # what is not used may be told as varying
    scales = {key: unit_of(name, key) for key, name in names.items()}
    for line, record in enumerate(records, start=1):
        values = {key: record.get(name, name) if name else None for key, name in names.items()}
        if all(values[key] in (None, "") for key in ("lr", "loss")):
            bare += 1  # a parent run of MLflow, say
            continue
        status = str(values["status"] or "").strip().lower()
        if names["status"] and status not in (*ENDED, *DIVERGED):
            left += 1
            continue
        counted = {key: scales[key] * number(values[key]) for key in COUNTED}
        values |= counted
        values["batch"] = step.tokens(values)
        if perplexity:
            values["loss"] = _logarithm(number(values["loss"]))
        row = _row(path, line, values, names)
        if status in DIVERGED or str(values["diverged"] or "").strip().lower() in TRUE:
            row.loss = math.inf
        found.rows.append(row)
        if row.n not in found.models:
            shape = {k: int(v) for k in ("depth", "width", "heads", "ffn") if (v := number(values[k])) > 0}
            found.models[row.n] = model_of(row.n, **shape)
    found.note(left, f"did not end ({names['status']}): left out.")
    found.note(bare, "have neither an lr nor a loss: left out.")
    _check_batches(path, found, names)
    found.notes += [note] if (note := step.note(names)) else []
    if not names["n"]:
        found.notes.append(f"N is {N_OF_SHAPE} ({names['depth']}, {names['width']}).")
    if perplexity:
        found.notes.append(f"{names['loss']} is taken for a perplexity: its logarithm is the loss.")
    if names["active"]:
        _one_sparsity(found, str(names["active"]), str(names["total"]))
    return found


def is_perplexity(name: str | None) -> bool:
    return name is not None and bool({"ppl", "perplexity"} & set(plain(name).split("_")))


def _logarithm(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _row(path: Path, line: int, values: dict[str, Any], names: dict[str, str | None]) -> Row:
    lr, b = number(values["lr"]), values["batch"]
    n = values["n"] if names["n"] else 12 * number(values["depth"]) * number(values["width"]) ** 2
    if names["d"]:
        d, what = number(values["d"]), names["d"]
    elif names["ratio"]:
        d, what = number(values["ratio"]) * n, names["ratio"]
    elif names["steps"]:
        d, what = number(values["steps"]) * b, names["steps"]
    else:
        d, what = number(values["flops"]) / (6 * n), names["flops"]
    for name, value in ((names["n"] or N_OF_SHAPE, n), (names["lr"], lr), (names["batch"], b), (what, d)):
        if not 0 < value < math.inf:
            raise UserError(f"{path}, run {line}: {name} is {value}, and it must be a positive number.")
    loss = number(values["loss"])
    row = Row(round(n), round(d), round(b), lr, loss if math.isfinite(loss) else math.inf, line)
    row.seed = str(values["seed"]) if names["seed"] else None
    row.total = number(values["total"])
    row.curve = _curve(path, line, values["curve"])
    return row


def _check_batches(path: Path, found: Rows, names: dict[str, str | None]) -> None:
    """A batch in sequences that is taken for tokens makes every model's steps 1,000 times too many."""
    steps = max((row.d / row.b for row in found.rows), default=0)
    if steps > MOST_STEPS:
        raise UserError(
            f"{path}: a run of {steps:.1e} steps is hard to believe, so {names['batch']} is not in tokens: "
            "give --context, the tokens of a sequence."
        )


def _one_sparsity(found: Rows, active: str, total: str) -> None:
    """Of runs with the same active parameters, those of the total that most have: they are not runs of one model."""
    counts = Counter((row.n, row.total) for row in found.rows if not math.isnan(row.total))
    kept = {n: max((count, t) for (m, t), count in counts.items() if m == n)[1] for n, _ in counts}
    fitting = [row for row in found.rows if row.n not in kept or row.total == kept[row.n]]
    found.notes.append(f"N is {active}, the parameters that a token meets.")
    found.note(len(found.rows) - len(fitting), f"with the {active} of others and another {total}: left out.")
    found.rows = fitting
    if len(kept) > 1 and len(set(kept.values())) == 1:
        found.notes.append(
            f"{total} is the same for all: models that differ in {active} alone are not one family as dense ones are; "
            "lr* may even rise with N here."
        )


def _add_curves(path: Path, found: Rows, records: list[dict[str, Any]], run: str | None, curves: Path) -> None:
    """From a file of (run, tokens, loss)."""
    if run is None:
        raise UserError(f"{path} has no column with the runs' names, by which {curves} tells them: --columns.run NAME.")
    points = records_of(curves)
    there = {plain(name): name for name in reversed(points[0])}
    keys = [
        next((there[alias] for alias in aliases if alias in there), None)
        for aliases in (("run", "run_id", "exp_name", "name", "id"), ("tokens", "d"), ("loss", "val_loss"))
    ]
    if None in keys:
        raise UserError(f"{curves} must have the columns run, tokens and loss; it has {', '.join(points[0])}.")
    by_run: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        by_run.setdefault(str(point[keys[0]]), []).append((number(point[keys[1]]), number(point[keys[2]])))  # type: ignore[index]
    with_one = 0
    for row in found.rows:
        name = str(records[row.line - 1][run])
        if name in by_run:
            row.curve = _curve(curves, row.line, by_run[name])
            with_one += 1
    if not with_one:
        raise UserError(f"No run of {curves} is in the column {run} of {path}: name the right one, --columns.run NAME.")
    found.note(len(found.rows) - with_one, f"have no curve in {curves.name}.")


def _curve(path: Path, line: int, value: Any) -> np.ndarray | None:
    if value is None or len(value) == 0 or (isinstance(value, str) and not value.strip()):
        return None
    try:
        points = np.array(json.loads(value) if isinstance(value, str) else value, float).reshape(-1, 2)
    except (TypeError, ValueError):
        raise UserError(f"{path}, run {line}: its curve is not a list of [tokens, loss].") from None
    points = points[(points[:, 0] > 0) & np.isfinite(points).all(axis=1)]
    return points[np.argsort(points[:, 0], kind="stable")] if len(points) else None
