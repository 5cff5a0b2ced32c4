"""Cleaning on a Ray cluster: files are read and written by tasks, band keys are brought together by Ray Data.

Every node must see the corpus and job.out. A key and its document are 16 bytes, and a file's keys of one partition
travel as one row, so that Ray moves (files x partitions) rows however many documents there are. The
clusters are those of one machine.
"""
# pyarrow.compute's functions are made as it is imported, unseen by the checker.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from trainer.data.cleaning.job import Job
from trainer.data.cleaning.local import Cleaned, Progress, clean
from trainer.data.cleaning.signed import Signed
from trainer.data.deduplication.bands import candidates, keys, unique
from trainer.data.deduplication.check import checked
from trainer.errors import UserError
from trainer.local_ray import ray_session

PARTITION = 64 * 2**20  # bytes of keys that one task sorts
T = TypeVar("T")


def clean_distributed(
    job: Job, cpus: int, progress: Progress = lambda *_: None, partitions: int | None = None
) -> Cleaned:
    """As `clean`, on the cluster in RAY_ADDRESS, or on `cpus` CPUs here.

    partitions: of the keys; default: one for each 64 MB of them, and one a CPU.
    """
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        with ray_session(cpus, 0):
            return clean(job, cpus, progress, over=over, pairs_of=partial(near_pairs, partitions=partitions))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def over(items: Sequence[T], work: Callable[[T], Any], processes: int) -> Iterator[tuple[T, Any]]:
    """As trainer.data.processes.over, by tasks of Ray."""
    task = ray.remote(work if hasattr(work, "__name__") else lambda item: work(item))
    waiting = {task.remote(item): item for item in items}
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        yield waiting.pop(done), ray.get(done)


def near_pairs(job: Job, progress: Progress, found: Cleaned, partitions: int | None = None) -> np.ndarray:
    """Checked pairs of documents, int64 [m, 2] ascending: all that comes back to the driver."""
    size = len(signed := Signed(job)) * 16 * (1 if job.settings.exact else job.settings.bands)
    parts = partitions or max(int(ray.cluster_resources().get("CPU", 1)), -(-size // PARTITION))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 16 * PARTITION  # a partition must not be split
    if size > ray.cluster_resources().get("object_store_memory", 0) / 4:
        context.use_disk_based_hash_shuffle = True
    numbers = [{"file": number} for number in range(len(job.files)) if len(signed.file(number))]
    if not numbers:
        return np.zeros((0, 2), np.int64)
    progress("duplicates", 0, 1)
    keyed = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        partial(_keyed, job=job, parts=parts), batch_size=1, batch_format="pyarrow"
    )
    starred = keyed.repartition(parts, keys=["part"]).map_batches(
        partial(_starred, job=job), batch_size=None, batch_format="pyarrow"
    )
    pairs, seen = [np.zeros((0, 2), np.int64)], list[int]()
    batch: Any
    for batch in starred.iter_batches(batch_size=None, batch_format="pyarrow"):
        if batch.num_columns:
            a, b = batch["a"].to_numpy(), batch["b"].to_numpy()
            seen += b[a < 0].tolist()
            pairs.append(np.column_stack((a, b))[a >= 0])
    if len(seen) != len(set(seen)):
        raise RuntimeError("Ray Data parted the keys of a partition, and duplicates may have been missed.")
    found.candidates = sum(map(len, pairs))
    progress("duplicates", 1, 1)
    return unique(np.concatenate(pairs))


def _keyed(batch: pa.Table, job: Job, parts: int) -> pa.Table:
    """The keys of one file in all bands, a row for each partition."""
    signed, settings = Signed(job), job.settings
    made: dict[str, list[Any]] = {"part": [], "keys": [], "documents": []}
    for number in batch["file"].to_pylist():
        rows = np.asarray(signed.file(number))
        documents = np.arange(len(rows)) + signed.first(number)
        bands = 1 if settings.exact else settings.bands
        found = np.concatenate([keys(rows, band, settings) for band in range(bands)])
        owner = np.tile(documents, bands)
        part = (found % np.uint64(parts)).astype(np.int64)
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part, minlength=parts))
        for index, places in enumerate(np.split(order, ends[:-1])):
            if len(places):
                made["part"].append(index)
                made["keys"].append(found[places])
                made["documents"].append(owner[places])
    types = {"part": pa.int64(), "keys": pa.large_list(pa.uint64()), "documents": pa.large_list(pa.int64())}
    return pa.table({name: pa.array(made[name], kind) for name, kind in types.items()})


def _starred(batch: pa.Table, job: Job) -> pa.Table:
    """Checked pairs of one partition or several; and for each a row (-1, its number)."""
    if not batch.num_columns or not len(batch):
        return pa.table({"a": pa.array([], pa.int64()), "b": pa.array([], pa.int64())})
    flat = {name: pc.list_flatten(batch[name]).to_numpy() for name in ("keys", "documents")}
    pairs = checked(Signed(job), unique(candidates(flat["keys"], flat["documents"])), job.settings)
    parts = np.unique(batch["part"].to_numpy())
    marks = np.column_stack((np.full(len(parts), -1), parts))
    both = np.concatenate((marks, pairs)).astype(np.int64)
    return pa.table({"a": both[:, 0], "b": both[:, 1]})
