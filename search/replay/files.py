"""Files of runs as records by column, and the numbers in their cells."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet

from search.replay.columns import UNITS
from trainer.errors import UserError


def records_of(path: Path) -> list[dict[str, Any]]:
    """The file's rows by its column names."""
    if not path.is_file():
        raise UserError(f"There is no table {path}: give a .csv, .jsonl or .parquet file of runs.")
    try:
        if path.suffix == ".jsonl":
            found = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        elif path.suffix == ".parquet":
            found = pyarrow.parquet.read_table(path).to_pylist()
        elif path.suffix == ".json":
            found = _list_of(json.loads(path.read_text("utf-8")))
        elif path.suffix in (".csv", ".tsv", ".txt", ".gz"):
            opener = gzip.open if path.suffix == ".gz" else open
            with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
                header = file.readline()
                file.seek(0)
                mark = max(",;\t", key=header.count)
                found = list(csv.DictReader(file, delimiter=mark))
            if mark == ";":
                found = _with_points(found)
        else:
            raise UserError(f"{path}: a table is a .csv, .tsv, .csv.gz, .json, .jsonl or .parquet file.")
    except (ValueError, OSError, csv.Error) as error:  # not JSON, not UTF-8, not parquet
        raise UserError(f"{path} cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from None
    if not found:
        raise UserError(f"{path} holds no runs.")
    if not all(isinstance(record, dict) for record in found):
        raise UserError(f"{path}: each run must be a JSON object.")
    return found


def _list_of(document: Any) -> list[Any]:
    """A list, or the one list of an object ({"runs": [...]}), or columns ({"lr": [...], "loss": [...]}, also by row
    number, as pandas writes them)."""
    if isinstance(document, dict) and document:
        inner = [list(v.values()) if isinstance(v, dict) else v for v in document.values()]
        lists = [value for value in inner if isinstance(value, list)]
        if len(lists) == len(document) > 1 and len({len(value) for value in lists}) == 1:
            return [dict(zip(document, row, strict=True)) for row in zip(*lists, strict=True)]
        if len(lists) == 1:
            return lists[0]
    if not isinstance(document, list):
        raise ValueError("it holds no list of runs")
    return document


COMMA = re.compile(r"^\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*$")
THOUSANDS = re.compile(r"^\s*[-+]?[1-9]\d{0,2},\d{3}\s*$")


def _with_points(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Decimal commas as points, in a file where a number shows that its commas are no thousands'."""
    cells = [cell for record in found for cell in record.values() if isinstance(cell, str) and COMMA.match(cell)]
    if all(map(THOUSANDS.match, cells)):
        return found
    commas = set(cells)
    return [
        {key: cell.replace(",", ".") if isinstance(cell, str) and cell in commas else cell for key, cell in r.items()}
        for r in found
    ]


NESTED = ("config", "summary", "summary_metrics", "params", "metrics", "hparams")
"""Columns of an export that hold a whole dictionary, as W&B's public interface gives them."""


def flat(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Dictionaries inside a record as columns: {"config": {"optim": {"lr": 1}}} is {"config.optim.lr": 1}."""
    nested = [name for name in NESTED if isinstance(_dictionary(records[0].get(name)), dict)]
    if not nested or "horizon" in records[0]:
        return records
    return [_flattened(record, nested) for record in records]


def _flattened(record: dict[str, Any], nested: list[str]) -> dict[str, Any]:
    found, waiting = {k: v for k, v in record.items() if k not in nested}, [(n, record.get(n)) for n in nested]
    while waiting:
        name, value = waiting.pop(0)
        inner = _dictionary(value)
        if isinstance(inner, dict):
            waiting += [(f"{name}.{key}", v) for key, v in inner.items()]
        else:
            found[name] = value
    return found


def _dictionary(value: Any) -> Any:
    """Of a dictionary or the text of one, as JSON or as Python writes it; else what it was."""
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


SUFFIXED = re.compile(r"^\s*([-+]?[\d_,]*\.?\d+(?:[eE][-+]?\d+)?)\s*([kKmMbBgGtT]?)\s*$")


def number(value: Any) -> float:
    """Of a cell: also 124M, 2.5B and 524,288; NaN where there is none."""
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        found = SUFFIXED.match(value) if isinstance(value, str) else None
        return math.nan if found is None else float(found[1].replace(",", "")) * UNITS.get(found[2].lower(), 1.0)
