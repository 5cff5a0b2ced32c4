"""The last pass over a file: the same file without what goes, in the same format."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from trainer.data.cleaning.job import Job
from trainer.data.corpus import JSON_LINES, open_bytes, open_parquet, rows
from trainer.data.tokenizer import END_OF_TEXT
from trainer.errors import UserError
from trainer.files import disk_error, write_atomic

HEAD = 300


@dataclass(frozen=True)
class Task:
    """One file's last pass."""

    job: Job
    number: int
    keep: np.ndarray
    """bool [rows]."""
    named: np.ndarray
    """int64: rows whose id is wanted."""
    shown: np.ndarray
    """int64: rows whose beginning is wanted."""


def write(task: Task) -> dict[str, dict[int, str]]:
    """{"ids": {row: id}, "heads": {row: text}}; done once, then read from its mark."""
    job, mark = task.job, task.job.work / f"{task.number:06d}.written.json"
    if not mark.exists():
        target = job.out / job.names[task.number]
        ids, heads = dict[int, str](), dict[int, str]()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp{target.suffix}")
        try:
            _rewrite(task, job.files[task.number], temporary, ids, heads)
            os.replace(temporary, target)
        except OSError as error:
            raise disk_error(error, target) from error
        finally:
            temporary.unlink(missing_ok=True)
        write_atomic(mark, json.dumps({"ids": ids, "heads": heads}).encode())
    found = json.loads(mark.read_text())
    return {name: {int(row): text for row, text in values.items()} for name, values in found.items()}


def _rewrite(task: Task, path: Path, target: Path, ids: dict[int, str], heads: dict[int, str]) -> None:
    if path.name.endswith(".parquet"):
        return _parquet(task, path, target, ids, heads)
    shown, named = set(task.shown.tolist()), set(task.named.tolist())
    if path.name.endswith(JSON_LINES):
        with _packed(target) as out:
            for row, line in _lines(task, path):
                if row in named or row in shown:
                    _look(task, row, json.loads(line), named, shown, ids, heads)
                if task.keep[row]:
                    out.write(line if line.endswith(b"\n") else line + b"\n")
        return None
    with open(target, "w", encoding="utf-8") as out:
        first = True
        for row, text in enumerate(rows(path, task.job.reading)):
            if row in shown:
                heads[row] = (text or "")[:HEAD]
            if task.keep[row]:
                out.write(("" if first else f"\n{END_OF_TEXT}\n") + (text or ""))
                first = False
    return None


def _packed(target: Path) -> Any:
    if target.suffix == ".xz":
        return lzma.open(target, "wb", preset=1)  # the default takes minutes a gigabyte
    return open_bytes(target, "wb")


def _lines(task: Task, path: Path) -> Iterator[tuple[int, bytes]]:
    """As many as the first pass read: where a file breaks off was told there."""
    with open_bytes(path) as lines:
        try:
            for row, line in enumerate(lines):
                if row >= len(task.keep):
                    return
                yield row, line
        except (OSError, EOFError, zstandard.ZstdError, lzma.LZMAError):
            return


def _parquet(task: Task, path: Path, target: Path, ids: dict[int, str], heads: dict[int, str]) -> None:
    job = task.job
    try:
        with open_parquet(path, job.reading.field) as file:
            codec = file.metadata.row_group(0).column(0).compression.lower() if file.num_row_groups else "snappy"
            has_id, at = job.id_field in file.schema_arrow.names, 0
            with pq.ParquetWriter(
                target, file.schema_arrow, compression="none" if codec == "uncompressed" else codec
            ) as out:
                for batch in file.iter_batches(batch_size=8192):
                    last = at + len(batch)
                    for rows_, column, into in (
                        (task.named, job.id_field if has_id else "", ids), (task.shown, job.reading.field, heads),
                    ):  # fmt: skip
                        here = rows_[(rows_ >= at) & (rows_ < last)]
                        if column and len(here):
                            taken = batch.column(column).take(pa.array(here - at)).to_pylist()
                            into.update({int(r): str(v)[:HEAD] for r, v in zip(here, taken, strict=True)})
                    out.write_batch(batch.filter(pa.array(task.keep[at:last])))
                    at = last
    except UserError:
        if not job.reading.skip_damaged:
            raise
        if not target.exists():  # else it holds what came before the damage
            pq.write_table(pa.table({job.reading.field: pa.array([], pa.string())}), target)


def _look(
    task: Task, row: int, values: Any, named: set[int], shown: set[int], ids: dict[int, str], heads: dict[int, str]
) -> None:
    if row in named and values.get(task.job.id_field) is not None:
        ids[row] = str(values[task.job.id_field])
    if row in shown:
        heads[row] = str(values.get(task.job.reading.field))[:HEAD]
