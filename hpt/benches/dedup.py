"""Near-duplicates: signatures beside datasketch's, the whole command judged by exact similarities. Processor time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hpt.benches.common import Options, Row
from hpt.benches.planted import planted
from trainer.data.deduplication import Settings
from trainer.data.deduplication.signatures import signatures
from trainer.data.deduplication.truth import jaccard, sets, similar_pairs

FILES = 8
TIMED = 2000  # documents that both sign


def measure(options: Options) -> list[Row]:
    texts = planted(400 if options.quick else options.documents, seed=0)
    return [*signing(texts, options.repeats), *whole(texts)]


def signing(texts: list[str], repeats: int) -> list[Row]:
    """hpt's way and datasketch's, taking turns: 120 values of words in fives, from text."""
    how, part = Settings(), texts[:TIMED]
    array = pa.array(part, pa.large_string())
    ways: dict[str, Callable[[], Any]] = {"signatures": lambda: signatures(array, how)}
    try:
        from datasketch import MinHash
    except ImportError:
        pass
    else:
        fewer = part[: TIMED // 10]

        def peer() -> None:
            for text in fewer:
                words = re.findall(r"\w+", text.lower())
                made = MinHash(num_perm=how.values)
                made.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])

        ways["signatures by datasketch"] = peer
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.process_time()
            way()
            taken[name].append(time.process_time() - began)
    size = sum(len(text.encode()) for text in part)
    share = {"signatures": 1.0, "signatures by datasketch": len(part[: TIMED // 10]) / len(part)}
    return [
        {
            "what": f"{name}, a core",
            "seconds": min(times),
            "documents_per_second": len(part) * share[name] / min(times),
            "mb_per_second": size * share[name] / min(times) / 1e6,
        }
        for name, times in taken.items()
    ]


def whole(texts: list[str]) -> list[Row]:
    """`hpt.data dedup` in a process of its own, on parquet: its processor time and memory, and what it found."""
    with tempfile.TemporaryDirectory(prefix="hpt-bench-") as name:
        folder, out = Path(name) / "in", Path(name) / "out"
        folder.mkdir()
        each = -(-len(texts) // FILES)
        for i in range(FILES):
            pq.write_table(pa.table({"text": texts[i * each : (i + 1) * each]}), folder / f"{i}.parquet")
        command = [
            sys.executable,
            "-m",
            "hpt.data",
            "dedup",
            str(folder),
            "--out",
            str(out),
            "--processes",
            "1",
            "--json",
        ]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdout is not None
        with child.stdout:
            told = json.loads(child.stdout.read())
        used = os.wait4(child.pid, 0)[2]
        child.returncode = 0  # it has been waited for
        gone = pq.read_table(out / "_hpt" / "removed.parquet").to_pylist()
    place = {(f"{i}.parquet", row): i * each + row for i in range(FILES) for row in range(each)}
    kept = {place[r["file"], r["row"]]: place[r["kept_file"], r["kept_row"]] for r in gone}
    row: Row = {
        "what": f"dedup of {len(texts):,} documents",
        "seconds": used.ru_utime + used.ru_stime,
        "documents_per_second": len(texts) / (used.ru_utime + used.ru_stime),
        "memory_gb": used.ru_maxrss / 1e6,
        "removed": told["reasons"].get("duplicate", 0),
    }
    return [row | judged(texts, kept)]


def judged(texts: list[str], kept: dict[int, int]) -> Row:
    """Recall of pairs of exact Jaccard similarity >= 0.8, and precision of removals (>= threshold - 0.05)."""
    how = Settings()
    documents = sets(pa.array(texts, pa.large_string()), how)
    similar = [pair for pair, value in similar_pairs(documents, 0.8).items() if value >= 0.8]
    found = sum(kept.get(a, a) == kept.get(b, b) for a, b in similar)
    right = sum(jaccard(documents[a], documents[b]) >= how.threshold - 0.05 for a, b in kept.items())
    return {"recall": found / max(1, len(similar)), "precision": right / max(1, len(kept))}
