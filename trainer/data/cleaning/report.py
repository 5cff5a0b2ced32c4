"""What was removed, for programs (removed.parquet, report.json) and for people (report.md)."""
# pyarrow.compute's functions are made as it is imported, unseen by the checker.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.data.cleaning.job import Job
from trainer.data.cleaning.sign import stem
from trainer.data.cleaning.signed import Signed
from trainer.errors import UserError
from trainer.files import write_atomic

SHOWN = 10  # pairs of duplicates: those of least similarity
CODECS = ("snappy", "zstd", "gzip", "brotli", "lz4")
COLUMNS = "file, row, kept_file, kept_row, similarity, id, kept_id, reason"


def finish(
    job: Job, found: Any, signed: Signed, gone: np.ndarray, similarity: np.ndarray, told: dict[int, Any]
) -> None:
    """Writes job.reports: removed.parquet, kept.parquet, report.json, report.md."""
    write_table(removed(job, signed, gone, similarity, told), job.reports / "removed.parquet")
    write_kept(job, signed, gone, job.reports / "kept.parquet")
    examples = _examples(job)
    heads = {(number, row): text for number, texts in told.items() for row, text in texts["heads"].items()}
    for number in np.argsort(similarity, kind="stable")[:SHOWN]:
        files, rows = signed.places(gone[number])
        places = list(zip(files.tolist(), rows.tolist(), strict=True))
        if not all(place in heads for place in places):  # damaged since
            continue
        examples.append({
            "file": job.names[places[0][0]], "row": places[0][1], "reason": "duplicate",
            "similarity": round(float(similarity[number]), 3),
            "text": heads[places[0]], "kept_file": job.names[places[1][0]], "kept_row": places[1][1],
            "kept_text": heads[places[1]],
        })  # fmt: skip
    found.examples = examples
    values = {"key": job.key, "settings": asdict(job.settings), **vars(found)}
    write_atomic(job.reports / "report.json", json.dumps(values, indent=1).encode())
    write_atomic(job.reports / "report.md", page(job, found).encode())


def removed(job: Job, signed: Signed, gone: np.ndarray, similarity: np.ndarray, told: dict[int, Any]) -> pa.Table:
    """A row for every document that went for other reasons than being empty or damaged."""
    names, columns = pa.array(job.names, pa.string()), dict[str, pa.Array]()
    for prefix, documents in (("", gone[:, 0]), ("kept_", gone[:, 1])):
        files, rows = signed.places(documents)
        ids = [told[f]["ids"].get(r) for f, r in zip(files.tolist(), rows.tolist(), strict=True)]
        columns |= {
            f"{prefix}file": names.take(pa.array(files)),
            f"{prefix}row": pa.array(rows),
            f"{prefix}id": pa.array(ids, pa.string()),
        }
    reason = pa.array(["duplicate"] * len(gone), pa.string())
    table = pa.table({**columns, "similarity": pa.array(similarity, pa.float32()), "reason": reason})
    filtered = [part for number in range(len(job.files)) if (part := _filtered(job, number)) is not None]
    return pa.concat_tables([table, *filtered], promote_options="default").select(COLUMNS.split(", "))


def _filtered(job: Job, number: int) -> pa.Table | None:
    reasons = pq.read_table(stem(job, number).with_suffix(".parquet"), columns=["reason"]).column(0)
    reasons = reasons.cast(pa.string())
    rows = np.flatnonzero(pc.invert(pc.is_in(reasons, pa.array([None, "empty", "damaged"]))).to_numpy())
    if not len(rows):
        return None
    return pa.table(
        {
            "file": pa.array([job.names[number]] * len(rows)),
            "row": pa.array(rows, pa.int64()),
            "reason": reasons.take(pa.array(rows)),
        }
    )


def write_kept(job: Job, signed: Signed, gone: np.ndarray, path: Path) -> None:
    """file and row of all that stays, a file at a time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    schema = pa.schema({"file": pa.string(), "row": pa.int64()})
    with pq.ParquetWriter(temporary, schema) as out:
        for number in range(len(job.files)):
            keep, rows = signed.kept_by_filters(number), signed.rows(number)
            here = gone[(gone[:, 0] >= signed.first(number)) & (gone[:, 0] < signed.ends[number]), 0]
            keep[rows[here - signed.first(number)]] = False
            stays = np.flatnonzero(keep)
            out.write_table(pa.table([pa.array([job.names[number]] * len(stays), pa.string()), stays], schema=schema))
    os.replace(temporary, path)


def write_table(table: pa.Table, path: Path) -> None:
    """Packed as the name says (x.zstd.parquet), else by snappy; UserError for another ending."""
    if path.suffix != ".parquet":
        raise UserError(f"{path} must end in .parquet (or .snappy.parquet, .zstd.parquet ...).")
    named = path.stem.rpartition(".")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(table, temporary, compression=named if named in CODECS else "snappy")
    os.replace(temporary, path)


def _examples(job: Job) -> list[dict[str, Any]]:
    """Of what filters removed, a few of each."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number, name in enumerate(job.names):
        metadata = pq.read_schema(stem(job, number).with_suffix(".parquet")).metadata or {}
        for kind, told in json.loads(metadata.get(b"examples", b"{}")).items():
            found.setdefault(kind, []).extend({"file": name, **one} for one in told)
    return [example for told in found.values() for example in told[:5]]


def page(job: Job, found: Any) -> str:
    lines = ["# What was removed", "", "| | documents | |", "| --- | ---: | ---: |"]
    for name, count in [("read", found.rows), *found.reasons.most_common(), ("kept", found.kept)]:
        lines.append(f"| {name} | {count:,} | {count / max(1, found.rows):.1%} |")
    lines += ["", f"Files: {len(job.files)}. Duplicates: {found.candidates:,} candidates, {found.pairs:,} pairs, "
              f"{found.clusters:,} clusters; {job.settings}.", ""]  # fmt: skip
    for example in found.examples:
        lines += [f"## {example['file']}, row {example['row']}: {example['reason']}", ""]
        if "kept_text" in example:
            kept_at = f"{example['kept_file']}, row {example['kept_row']}"
            lines += [f"Similarity {example['similarity']:g} to {kept_at}, which is kept:", ""]
            lines += [_quoted(example["kept_text"]), "", "Removed:", ""]
        lines += [_quoted(example["text"]), ""]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines()) or "> (empty)"
