"""Cleaning on one machine: processes over files, in three passes, each of which goes on where it was cut off."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
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


def clean(
    job: Job,
    processes: int,
    progress: Progress = lambda *_: None,
    *,
    over: Callable[..., Iterator[tuple[Any, Any]]] = over,
    pairs_of: Callable[[Job, Progress, Cleaned], np.ndarray] | None = None,
) -> Cleaned:
    """Write the cleaned files to job.out, and what was removed to its reports.

    over, pairs_of: how work is spread, and how checked pairs are found, where that is not on this machine.
    """
    job.begin()
    found, workers = Cleaned(), partial(_told, over, processes, progress)
    began = time.perf_counter()
    for _ in workers("reading", list(range(len(job.files))), partial(sign, job)):
        pass
    found.seconds["reading"] = time.perf_counter() - began
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
    found.seconds["duplicates"] = time.perf_counter() - began
    found.kept = found.rows - found.reasons.total()
    began = time.perf_counter()
    similarity = similarities(signed, gone)
    told = {task.number: texts for task, texts in workers("writing", _tasks(job, signed, gone, similarity), write)}
    found.seconds["writing"] = time.perf_counter() - began
    finish(job, found, signed, gone, similarity, told)
    return found


def _told(
    over: Callable[..., Any],
    processes: int,
    progress: Progress,
    name: str,
    items: list[Any],
    work: Callable[[Any], Any],
) -> Iterator[tuple[Any, Any]]:
    """`over` with progress."""
    progress(name, 0, len(items))
    for done, made in enumerate(over(items, work, processes), start=1):
        progress(name, done, len(items))
        yield made


def near_pairs(job: Job, progress: Progress, found: Cleaned) -> np.ndarray:
    """Checked pairs of documents, in memory: 8 bytes a document and 16 a candidate, a band at a time."""
    signed, settings = Signed(job), job.settings
    documents, pairs = np.arange(len(signed)), [np.zeros((0, 2), np.int64)]
    bands = 1 if settings.exact else settings.bands
    for band in range(bands):
        pairs = [unique(np.concatenate([*pairs, candidates(signed.keys(band, settings), documents)]))]
        progress("duplicates", band + 1, bands)
    found.candidates = len(pairs[0])
    return checked(signed, pairs[0], settings)


def _tasks(job: Job, signed: Signed, gone: np.ndarray, similarity: np.ndarray) -> list[Task]:
    """The last pass over each file: which rows stay, and of which ids and beginnings are wanted."""
    shown, tasks = gone[np.argsort(similarity, kind="stable")[:SHOWN]].ravel(), []
    for number in range(len(job.files)):
        first, last, rows = signed.first(number), int(signed.ends[number]), signed.rows(number)

        def mine(documents: np.ndarray, first: int = first, last: int = last, rows: np.ndarray = rows) -> np.ndarray:
            return np.unique(rows[documents[(documents >= first) & (documents < last)] - first])

        keep = signed.kept_by_filters(number)
        keep[mine(gone[:, 0])] = False
        tasks.append(Task(job, number, keep, mine(gone.ravel()), mine(shown)))
    return tasks
