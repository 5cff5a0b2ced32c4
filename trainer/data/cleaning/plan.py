"""What a cleaning will take, before it starts: documents, hours, memory, dollars."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.data.cleaning.job import Job
from trainer.data.corpus import rows
from trainer.data.deduplication.signatures import signatures
from trainer.data.filters import reason

SAMPLE = 400  # documents that are timed
PACKED = {".gz": 2.8, ".xz": 3.7, ".zst": 3.2, ".parquet": 1.7}
"""Bytes of text for a byte of file, roughly, for English."""
WRITING = 0.5
"""Seconds of the last pass for a second of reading and signing, as measured; and 5e-5 a document for its bands."""
BANDS = 5e-5
SMALL = 1_000_000
"""Documents up to which one machine's processes are quicker than Ray Data."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    documents: int
    bytes: int
    """Of text."""
    core_seconds: float
    hours: float
    memory: int
    """Bytes that the driver holds for bands and pairs."""
    disk: int
    """Bytes of signatures while it runs; the cleaned files come on top."""
    shuffled: int
    """Bytes of band keys that go from node to node with Ray Data."""
    usd: float | None


def plan(job: Job, *, cores: int, nodes: int = 1, usd_per_hour: float | None = None) -> Plan:
    """Times a few hundred documents of the first file that has any."""
    size = sum(path.stat().st_size * PACKED.get(path.suffix, 1.0) for path in job.files)
    texts, filters = [], job.build_filters()
    for path in job.files:
        texts = [text for text in itertools.islice(rows(path, job.reading), SAMPLE) if text and text.strip()]
        if texts:
            break
    mean = sum(len(text.encode(errors="replace")) for text in texts) / max(1, len(texts)) or 1.0
    documents = _documents(job) or max(1, round(size / mean))
    signatures(pa.array(texts[:10], pa.large_string()), job.settings)
    began = time.process_time()
    for text in texts:
        reason(text, filters)
    signatures(pa.array(texts, pa.large_string()), job.settings)
    each = (time.process_time() - began) / max(1, len(texts)) * (1 + WRITING)
    bands = 1 if job.settings.exact else job.settings.bands
    hours = (documents * each / (cores * nodes) + documents * BANDS / nodes) / 3600
    return Plan(
        documents=documents,
        bytes=round(documents * mean),
        core_seconds=documents * (each + BANDS),
        hours=hours,
        memory=documents * 48,
        disk=documents * 4 * (2 if job.settings.exact else job.settings.values),
        shuffled=documents * 16 * bands,
        usd=None if usd_per_hour is None else hours * nodes * usd_per_hour,
    )


def _documents(job: Job) -> int:
    """Where every file says how many rows it has; else 0."""
    if not all(path.name.endswith(".parquet") for path in job.files):
        return 0
    try:
        return sum(pq.read_metadata(path).num_rows for path in job.files)
    except (OSError, pa.ArrowInvalid):
        return 0  # the pass over it will say
