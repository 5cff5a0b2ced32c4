"""`python -m hpt.bench`: how fast this is here, beside plain PyTorch, plain Ray Tune and nanoGPT."""

from __future__ import annotations

import importlib
import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.box import SIMPLE
from rich.table import Table

from hpt.benches.common import Options, Row
from hpt.console import cli
from hpt.console.tables import Fitting
from hpt.evaluate import task_files
from trainer import families
from trainer.addresses import masked
from trainer.devices import device_name, pick_device
from trainer.errors import UserError
from trainer.files import write_atomic

Section = Literal["step", "cohort", "overhead", "data", "search", "nanogpt", "gpu"]
GPU = ("step", "cohort", "data")
"""What `gpu` stands for: all that needs a GPU and no Ray, under 9 minutes."""
GPU_MINUTES = 7.0  # after which no further shape is begun: the longest takes less than two


@dataclass(frozen=True, kw_only=True)
class BenchConfig(cli.Common):
    """Time what hpt does against the plain way of doing it. Ratios are of one run, the ways taking turns."""

    sections: Annotated[tuple[Section, ...], tyro.conf.Positional] = ("step", "cohort", "overhead", "data", "search")
    """step: an optimiser step; cohort: members together against alone; overhead: 400 empty trials; data: duplicates,
    tokens, reading; search: hyperband against plain Ray Tune; nanogpt: beside a checkout; gpu: step, cohort, data."""
    out: Path | None = None
    """Write all figures there."""
    quick: bool = False
    """Tiny sizes: whether it works, not how fast it is."""
    repeats: int = 3
    """Timed calls of each way; the median counts."""
    documents: int = 10_000
    """That data removes near-duplicates from."""
    distributed: bool = False
    """Remove them by Ray Data as well."""
    compiled: bool = False
    """Time torch.compile as well (it needs a C++ compiler, and a minute a shape)."""
    members: tuple[int, ...] = ()
    """Sizes of cohorts; default: 8 and 16 on a CPU, 8, 32 and 64 on a GPU."""
    family: tuple[str, ...] = ()
    """Families of models (all, or names such as gptneo bert) that step times instead, each against GPT-2 by FLOPs."""
    device: str = "auto"
    """cpu, cuda or auto."""
    minutes: float | None = None
    """Begin no further shape after so long; default: 7 for gpu, else no limit."""
    nanogpt: Path | None = None
    """A nanoGPT checkout (the folder with its model.py)."""


@dataclass(frozen=True, kw_only=True)
class EdgeConfig(cli.Common):
    """`hpt.bench edge RUN`: a trained model in each form for small machines (hpt.convert): bytes, speed, loss. GGUF's
    speed is llama.cpp's, which is not timed."""

    run: tyro.conf.Positional[str]
    """Directory of a run, or a checkpoint file in one."""
    threads: int = 1
    """Of the processor."""
    repeats: int = 5
    """Timed calls; the median counts."""
    tasks: tuple[str, ...] = ()
    """Score every form on these too, those of hpt.evaluate's that need no writing: hellaswag, blimp, piqa ..."""
    data: tuple[str, ...] = ()
    """Their files, as TASK=PATH; else those that hpt.evaluate --download has fetched."""
    limit: int = 100
    """Items of each task, spread evenly over its file."""
    out: Path | None = None
    """Write all figures there."""


def main_edge(argv: Sequence[str]) -> int:
    config = cli.parse(EdgeConfig, argv, "hpt.bench edge")
    import torch

    from trainer.checkpoints.trained import open_trained

    edge = importlib.import_module("hpt.benches.edge")
    tasks = edge.Tasks(files=task_files(config.tasks, config.data), limit=config.limit)
    console, trained = config.console(), open_trained(config.run, edge.open_on_cpu(config.threads))
    rows = edge.measure(trained, config.repeats, tasks, console.print)
    console.print(Fitting(table(f"{masked(config.run)}, {config.threads} thread{'s' * (config.threads > 1)}", rows)))
    found = {"run": masked(config.run), "torch": torch.__version__, "threads": config.threads, "rows": rows}
    if config.out is not None:
        write_atomic(config.out, json.dumps(found, indent=1).encode())
    config.answer(found, f"{len(rows)} forms measured")
    return 0


def main(argv: Sequence[str]) -> int:
    if argv[:1] == ["edge"]:
        return main_edge(argv[1:])
    config = cli.parse(BenchConfig, argv, "hpt.bench")

    import torch

    if "nanogpt" in config.sections and config.nanogpt is None:
        raise UserError("The section nanogpt needs --nanogpt PATH: the folder of a nanoGPT checkout.")
    for family in config.family:
        if family != "all":
            families.settings(family)  # tells of one that is not known
    torch.set_flush_denormal(True)  # as workers do
    try:
        return _measure(config)
    finally:  # it is the whole process's, and a caller may need numbers this small
        torch.set_flush_denormal(False)


def _measure(config: BenchConfig) -> int:
    import torch

    minutes = config.minutes or (GPU_MINUTES if "gpu" in config.sections else math.inf)
    options = Options(
        deadline=time.perf_counter() + 60 * minutes,
        device=pick_device(config.device),
        repeats=config.repeats,
        quick=config.quick,
        documents=config.documents,
        distributed=config.distributed,
        compiled=config.compiled,
        members=config.members,
        nanogpt=config.nanogpt,
        families=config.family,
    )
    console = config.console()
    console.print(f"on {device_name(options.device)}, torch {torch.__version__}")
    found: dict[str, Any] = {}
    for section in dict.fromkeys(s for name in config.sections for s in (GPU if name == "gpu" else (name,))):
        began = time.perf_counter()
        with console.status(section):
            module = "families" if section == "step" and config.family else section
            rows = importlib.import_module(f"hpt.benches.{module}").measure(options)
        found[section] = {"seconds": time.perf_counter() - began, "rows": rows}
        console.print(Fitting(table(section, rows)) if rows else f"{section}: no time was left")
        if config.out is not None:  # after every section: a run that is cut off leaves what it has
            write_atomic(config.out, json.dumps({**about(options), "sections": found}, indent=1).encode())
    config.answer({**about(options), "sections": found}, f"{len(found)} sections measured")
    return 0


def about(options: Options) -> dict[str, Any]:
    import torch

    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": device_name(options.device),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "quick": options.quick,
        "repeats": options.repeats,
    }


def table(title: str, rows: list[Row]) -> Table:
    """A column for every key of any row."""
    made = Table(box=SIMPLE, title=title, title_justify="left")
    keys = list(dict.fromkeys(key for row in rows for key in row if any(r.get(key) is not None for r in rows)))
    for key in keys:
        made.add_column(key.replace("_", " "), justify="left" if isinstance(rows[0].get(key), str) else "right")
    for row in rows:
        made.add_row(*(written(row.get(key)) for key in keys))
    return made


def written(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    cli.run(main)
