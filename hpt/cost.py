"""`python -m hpt.cost`: what runs would cost here, from 20 timed steps; and how well that foretold a search."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hpt.console import cli
from hpt.console.assumed import Assumed
from hpt.console.tables import Fitting
from hpt.reports.numbers import duration, short
from search.budget import CostModel, Timing
from search.execution.store import SearchDir
from trainer.architecture.counts import flops_per_token, parameters
from trainer.config import RunConfig, override
from trainer.data.synthetic import random_data
from trainer.devices import device_name, peak_flops, pick_device
from trainer.errors import UserError
from trainer.presets import preset

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.cohorts.calibrate import Calibration

OPTIONAL = ("steps", "step 0", "MFU", "parameters", "tokens/s")
"""Columns that are left out where a terminal is narrow, in this order."""


@dataclass(frozen=True, kw_only=True)
class CostConfig(cli.Common):
    """Time 20 steps of each target here: step 0 apart, worst of steps 10-19, runtime = ms x steps / 3.6e6 hours."""

    targets: tuple[str, ...] = ("laptop", "tiniest", "tinier", "tiny")
    """Presets to time."""
    set: tuple[str, ...] = ()
    """Fields of all of them, as KEY=VALUE."""
    usd_per_hour: float = 0.0
    """Price of this device, or of --device."""
    device: str | None = None
    """Time nothing: what the runs would take on this device of hpt's table (h100, a100, rtx4090 ...), as assumed."""
    mfu: float | None = None
    """With --device: the share of its peak that a step reaches; default: typical of the model's size."""
    search: Path | None = None
    """A search directory: compare what its trials were forecast to take with what they took. Nothing is timed."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(CostConfig, argv, "hpt.cost")
    console, found = config.console(), list[dict[str, Any]]()
    if config.search is not None:
        rows = forecasts(SearchDir(config.search))
        console.print(Fitting(forecast_table(rows)))
        config.answer(rows, f"took {rows[-1]['took'] / rows[-1]['forecast']:.2f} of the forecast" if rows else "")
        return 0
    if config.device is not None:
        return elsewhere(config, config.device, console)
    if config.mfu is not None:
        raise UserError("--mfu is assumed of a --device: name one, such as --device h100.")
    device = pick_device()
    table = Table(box=SIMPLE, title=f"on {device_name(device)}", title_justify="left")
    headers = ("target", "parameters", "steps", "step 0", "step", "tokens/s", "MFU", "runtime", "dollars")
    for header in headers:
        table.add_column(header, justify="left" if header == "target" else "right")
    for name in config.targets:
        run = override(preset(name), config.set)
        with console.status(f"timing {name}"):
            measured = timed(run)
        peak = peak_flops(run, device)
        mfu = flops_per_token(run.model, run.predicted) * run.batch / measured.step_seconds / peak if peak else None
        hours = 1e3 * measured.step_seconds * run.steps / 3.6e6
        table.add_row(
            name,
            short(parameters(run.model).total),
            f"{run.steps:,}",
            duration_ms(measured.first_seconds),
            duration_ms(measured.step_seconds),
            short(run.batch / measured.step_seconds),
            f"{mfu:.0%}" if mfu else "",
            duration(3600 * hours),
            f"{hours * config.usd_per_hour:.2f}" if config.usd_per_hour else "",
        )
        found.append({"target": name, "parameters": parameters(run.model).total, "steps": run.steps,
                      "step_seconds": measured.step_seconds, "first_step_seconds": measured.first_seconds,
                      "mfu": mfu, "hours": hours, "usd": hours * config.usd_per_hour})  # fmt: skip
    console.print(Fitting(table, OPTIONAL))
    config.answer(found, "\n".join(f"{row['target']}: {row['hours']:.4g} hours" for row in found))
    return 0


def elsewhere(config: CostConfig, name: str, console: Console) -> int:
    """The same table for a device that is not here, from what is assumed of it."""
    assumed, found = Assumed.of(name, config.usd_per_hour, config.mfu), list[dict[str, Any]]()
    table = Table(box=SIMPLE, title=f"on one {assumed.device.match}, assumed", title_justify="left")
    for header in ("target", "parameters", "steps", "step", "tokens/s", "MFU", "memory", "runtime", "dollars"):
        table.add_column(header, justify="left" if header == "target" else "right")
    for target in config.targets:
        run = override(preset(target), config.set)
        step, total = assumed.step_seconds(run), parameters(run.model).total
        hours, memory = step * run.steps / 3600, assumed.memory_gib(run)
        table.add_row(
            target,
            short(total),
            f"{run.steps:,}",
            duration_ms(step),
            short(run.batch / step),
            f"{assumed.share(run):.0%}",
            f"{memory:.1f} GiB" + (" (too much)" if memory > assumed.device.memory_gib else ""),
            duration(3600 * hours),
            f"{hours * assumed.price:.2f}" if assumed.price else "",
        )
        found.append({"target": target, "parameters": total, "steps": run.steps, "step_seconds": step, "hours": hours,
                      "usd": hours * assumed.price, "assumed": assumed.to_json(run)})  # fmt: skip
    console.print(Fitting(table, OPTIONAL))
    price = f"${assumed.price:g} an hour" + (f" ({assumed.device.priced})" if assumed.listed else "")
    console.print(
        f"assumed, not timed: shares of {assumed.device.peak_tflops:g} TFLOP/s that are typical of the sizes, "
        f"{price if assumed.price else 'no price in the table: give --usd-per-hour'}"
    )
    config.answer(found, "\n".join(f"{row['target']}: {row['hours']:.4g} hours" for row in found))
    return 0


def timed(run: RunConfig) -> Calibration:
    """Twenty steps on random tokens: what they say does not change what they cost."""
    from trainer.cohorts.calibrate import calibrate

    count = max(4 * run.batch, run.model.context * 64) + 1
    with random_data(run.model.vocabulary, count) as data:
        return calibrate(replace(run, lr=1e-6), data)


def forecasts(directory: SearchDir) -> list[dict[str, Any]]:
    """By stage, all of them last: mean seconds that a trial was forecast to take and took."""
    saved, trials = directory.read_config("timings"), directory.read_trials()
    cost = CostModel(timings={key: Timing(**t) for key, t in saved["timings"].items()})
    done, rows = [t for t in trials if t.status == "finished"], list[dict[str, Any]]()
    for stage in [*dict.fromkeys(t.tags.get("stage", "") for t in done), None]:
        mine = [t for t in done if stage is None or t.tags.get("stage", "") == stage]
        if mine:
            forecast = statistics.mean(cost.forecast(t.run, t.horizon - t.start).seconds for t in mine)
            took = statistics.mean(t.seconds for t in mine)
            rows.append({"stage": stage or "all", "trials": len(mine), "forecast": forecast, "took": took})
    return rows


def forecast_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE, title="seconds a trial", title_justify="left")
    for header in ("stage", "trials", "forecast", "took", "took / forecast"):
        table.add_column(header, justify="left" if header == "stage" else "right")
    for row in rows:
        forecast, took = row["forecast"], row["took"]
        table.add_row(row["stage"], str(row["trials"]), f"{forecast:.2f}", f"{took:.2f}", f"{took / forecast:.2f}")
    return table


def duration_ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms"


if __name__ == "__main__":
    cli.run(main)
