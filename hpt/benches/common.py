"""What the sections share: options, and how two ways of doing the same are timed against each other."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import RunConfig
from trainer.presets import gpt2, laptop

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    import torch

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    device: torch.device
    repeats: int = 3
    quick: bool = False
    documents: int = 10_000
    """Of the section data's deduplication."""
    distributed: bool = False
    """Deduplicate by Ray Data, too."""
    compiled: bool = False
    members: tuple[int, ...] = ()
    nanogpt: Path | None = None
    families: tuple[str, ...] = ()
    """Of models, that step times against GPT-2; all: every one."""
    deadline: float = math.inf
    """On time.perf_counter: shapes that would begin later are left out."""


def seconds(ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of a call of each, after a first call that does not count. The ways take turns, so that what
    else the machine does meets all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            synchronise(device)
            began = time.perf_counter()
            way()
            synchronise(device)
            if turn:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def in_time(runs: Mapping[str, RunConfig], options: Options) -> Iterator[tuple[str, RunConfig]]:
    """The runs with their names, until the deadline."""
    for item in runs.items():
        if time.perf_counter() < options.deadline:
            yield item


def synchronise(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def shapes(options: Options) -> dict[str, RunConfig]:
    """Runs to time, by name, smallest first; lr set."""
    small = laptop()
    tiny = replace(small, model=replace(small.model, depth=1, width=32, heads=1, context=32, vocabulary=256), batch=512)
    if options.quick:
        found = {"quick": replace(tiny, data=replace(tiny.data, val_tokens=64), warmup=0)}
    elif options.device.type == "cpu":
        found = {"0.4M": small, "1M": small.shaped(2, 128, 4), "6M": small.shaped(6, 256, 4)}
    else:
        found = {
            "tiniest": gpt2(1, 64, 1),
            "tiny": gpt2(3, 192, 3),
            "gpt2-124m": replace(gpt2(12, 768, 12), batch=65536),
        }
    return {name: replace(run, lr=1e-3) for name, run in found.items()}
