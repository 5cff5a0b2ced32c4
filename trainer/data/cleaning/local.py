"""Cleaning on one machine: processes over files, in three passes, each of which goes on where it was cut off."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from trainer.data.cleaning.job import Job
from trainer.data.cleaning.report import SHOWN, finish
from trainer.data.cleaning.sign import counts, sign
from trainer.data.cleaning.signed import Signed
from trainer.data.cleaning.write import Task, write
from trainer.data.deduplication.bands import candidates, unique
from trainer.data.deduplication.check import checked, similarities
from trainer.data.deduplication.clusters import removals
from trainer.data.processes import over
from trainer.errors import UserError

Progress = Callable[[str, int, int], None]
"""Told the pass, how many of its steps are done, and all its steps."""


@dataclass
class Cleaned:
    """What became of the rows."""

    rows: int = 0
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Rows by why they went: empty, damaged, a filter's name, duplicate."""
    candidates: int = 0
    pairs: int = 0
    clusters: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)


def clean(job: Job, processes: int, progress: Progress = lambda *_: None, pairs_of: Any = None) -> Cleaned:
    """Write the cleaned files to job.out, and what was removed to its reports.

    pairs_of: how checked pairs of duplicates are found, (job, progress, found) -> int64 [m, 2], when not here.
    """
    job.begin()
    found = Cleaned()
    if pairs_of is None:
        signing(job, processes, progress, found)
    began = time.perf_counter()
    pairs = (pairs_of or near_pairs)(job, progress, found) if job.duplicates else np.zeros((0, 2), np.int64)
    signed = Signed(job)
    for number in range(len(job.files)):
        found.reasons += counts(job, number)
    found.rows = found.reasons.total()
    del found.reasons["signed"]
    if not found.rows - found.reasons["empty"] - found.reasons["damaged"]:
        raise UserError(f"The corpus holds no text: all its {found.rows:,} rows are empty or damaged.")
    gone = removals(pairs, signed.words() if job.settings.keep == "longest" else None)
    found.pairs, found.clusters = len(pairs), len(np.unique(gone[:, 1]))
    if len(gone):
        found.reasons["duplicate"] = len(gone)
    found.seconds["duplicates"] = found.seconds.get("duplicates", 0) + time.perf_counter() - began
    found.kept = found.rows - found.reasons.total()
    _writing(job, processes, progress, found, signed, gone)
    return found


def signing(job: Job, processes: int, progress: Progress, found: Cleaned) -> None:
    began = time.perf_counter()
    numbers = list(range(len(job.files)))
    progress("reading", 0, len(numbers))
    for done, _ in enumerate(over(numbers, partial(sign, job), processes), start=1):
        progress("reading", done, len(numbers))
    found.seconds["reading"] = time.perf_counter() - began


def near_pairs(job: Job, progress: Progress, found: Cleaned) -> np.ndarray:
    """Checked pairs of documents, in memory: 8 bytes a document and 16 a candidate, a band at a time."""
    signed, settings = Signed(job), job.settings
    documents, pairs = np.arange(len(signed)), [np.zeros((0, 2), np.int64)]
    bands = 1 if settings.exact else settings.bands
    for band in range(bands):
        pairs = [unique(np.concatenate([*pairs, candidates(signed.keys(band, settings), documents)]))]
        progress("duplicates", band + 1, bands)
    found.candidates = len(pairs[0])
    return checked(signed, pairs[0], settings)  # type: ignore[arg-type]


def _writing(job: Job, processes: int, progress: Progress, found: Cleaned, signed: Signed, gone: np.ndarray) -> None:
    began = time.perf_counter()
    similarity = similarities(signed, gone)  # type: ignore[arg-type]
    shown = gone[np.argsort(similarity, kind="stable")[:SHOWN]].ravel()
    tasks = []
    for number in range(len(job.files)):
        first, last, rows = signed.first(number), int(signed.ends[number]), signed.rows(number)
        keep = signed.kept_by_filters(number)

        def mine(documents: np.ndarray, first: int = first, last: int = last, rows: np.ndarray = rows) -> np.ndarray:
            return np.unique(rows[documents[(documents >= first) & (documents < last)] - first])

        keep[mine(gone[:, 0])] = False
        tasks.append(Task(job, number, keep, mine(gone.ravel()), mine(shown)))
    told: dict[int, dict[str, dict[int, str]]] = {}
    progress("writing", 0, len(tasks))
    for task, texts in over(tasks, write, processes):
        told[task.number] = texts
        progress("writing", len(told), len(tasks))
    found.seconds["writing"] = time.perf_counter() - began
    finish(job, found, signed, gone, similarity, told)
