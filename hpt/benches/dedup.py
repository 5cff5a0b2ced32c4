"""Near-duplicates: signatures beside datasketch's, the whole command judged by exact similarities. Processor time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from hpt.benches.common import Options, Row
from hpt.benches.planted import planted
from trainer.data.deduplication import Settings
from trainer.data.deduplication.signatures import signatures
from trainer.data.deduplication.truth import jaccard, sets, similar_pairs

FILES = 8
LOOK_SECONDS = 0.2
TIMED = 2000  # documents that both sign


def measure(options: Options) -> list[Row]:
    texts = planted(400 if options.quick else options.documents, seed=0)
    return [*signing(texts, options.repeats), *whole(texts, options.distributed)]


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


def whole(texts: list[str], distributed: bool) -> list[Row]:
    """`hpt.data dedup` in processes of its own, on parquet: processor time and memory, and what it found."""
    with tempfile.TemporaryDirectory(prefix="hpt-bench-") as name:
        folder, each = Path(name) / "in", -(-len(texts) // FILES)
        folder.mkdir()
        for i in range(FILES):
            pq.write_table(pa.table({"text": texts[i * each : (i + 1) * each]}), folder / f"{i}.parquet")
        row, kept = _dedup(folder, Path(name) / "out", len(texts), ["--processes", "1"])
        rows = [row | {"what": f"dedup of {len(texts):,} documents"} | judged(texts, kept)]
        if distributed:
            row, same = _dedup(folder, Path(name) / "ray", len(texts), ["--distributed"])
            rows.append(row | {"what": "the same by Ray Data, Ray included", "equal": same == kept})
        return rows


def _dedup(folder: Path, out: Path, count: int, flags: list[str]) -> tuple[Row, dict[int, int]]:
    """What it took, and what was removed: document -> the kept one."""
    command = [sys.executable, "-m", "hpt.data", "dedup", str(folder), "--out", str(out), "--json", *flags]
    told, seconds, memory = used_by(command)
    each, gone = -(-count // FILES), pq.read_table(out / "_hpt" / "removed.parquet").to_pylist()
    place = {(f"{i}.parquet", row): i * each + row for i in range(FILES) for row in range(each)}
    row: Row = {
        "seconds": seconds,
        "documents_per_second": count / seconds,
        "memory_gb": memory / 1e9,
        "removed": json.loads(told)["reasons"].get("duplicate", 0),
    }
    return row, {place[r["file"], r["row"]]: place[r["kept_file"], r["kept_row"]] for r in gone}


def used_by(command: list[str]) -> tuple[str, float, int]:
    """What a command prints, and the processor seconds and most resident bytes of it and all below it, looked at five
    times a second (what a process does after the last look at it is not counted)."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    root, seconds, most, over = psutil.Process(process.pid), dict[tuple[int, float], float](), 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.wait(LOOK_SECONDS):
            resident = 0
            for one in [root, *_below(root)]:
                with suppress(psutil.Error):
                    times = one.cpu_times()
                    seconds[one.pid, one.create_time()] = times.user + times.system
                    resident += one.memory_info().rss
            most = max(most, resident)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    told = process.communicate()[0]
    over.set()
    thread.join()
    return told, sum(seconds.values()), most


def _below(root: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return root.children(recursive=True)
    return []


def judged(texts: list[str], kept: dict[int, int]) -> Row:
    """Recall of pairs of exact Jaccard similarity >= 0.8, and precision of removals (>= threshold - 0.05)."""
    how = Settings()
    documents = sets(pa.array(texts, pa.large_string()), how)
    similar = [pair for pair, value in similar_pairs(documents, 0.8).items() if value >= 0.8]
    found = sum(kept.get(a, a) == kept.get(b, b) for a, b in similar)
    right = sum(jaccard(documents[a], documents[b]) >= how.threshold - 0.05 for a, b in kept.items())
    return {"recall": found / max(1, len(similar)), "precision": right / max(1, len(kept))}
