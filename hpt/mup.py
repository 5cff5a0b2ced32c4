"""`python -m hpt.mup`: does the best lr stay put as a model widens? The coordinate check, and lr sweeps over widths."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from hpt.console import cli
from hpt.console.tables import Fitting
from hpt.reports.chart import Chart, picture
from hpt.reports.numbers import short
from scaling.optimum import Optimum, fit_optimum
from trainer.architecture.counts import run_flops
from trainer.config import Parametrisation, RunConfig, override, to_dict
from trainer.data import prepare
from trainer.errors import UserError
from trainer.files import read_json_lines, write_atomic
from trainer.inputs import check_data
from trainer.presets import preset

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.coordcheck import Movement


@dataclass(frozen=True, kw_only=True)
class MupConfig(cli.Common):
    """Compare parametrisations over widths: movements of activations after four steps; with --sweep also trained."""

    target: str = "laptop"
    """A preset: its family of models is taken."""
    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Head size stays."""
    parametrisations: tuple[Parametrisation, ...] = ("sp", "mup")
    sweep: bool = False
    """Also train each width at each lr, and draw where the best lr lies."""
    lrs: tuple[float, ...] = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
    """Peak lrs of the sweep."""
    seeds: int = 1
    """Runs at each lr."""
    tokens: int = 204_800
    """Of each run of the sweep."""
    batch: int = 2048
    """Tokens a step of the sweep."""
    set: tuple[str, ...] = ()
    """Any field of the runs, as KEY=VALUE."""
    out: Path = Path("mup")
    """Holds runs.jsonl (a sweep goes on from it) and widths.svg."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(MupConfig, argv, "hpt.mup")
    if len(set(config.widths)) < 2:
        raise UserError("--widths needs two or more widths, such as 32 64 128.")
    console = config.console()
    small = replace(preset(config.target), batch=config.batch, tokens=config.tokens, warmup=config.tokens // 10)
    base = override(small, config.set)
    checks = coordinate_checks(base, config)
    console.print(Fitting(check_table(checks)))
    passes = {name: all(m.passes for m in found) for name, found in checks.items()}
    result: dict[str, Any] = {
        "slopes": {name: {m.name: m.slope for m in found} for name, found in checks.items()},
        "transfers": passes,
    }
    if config.sweep:
        rows = sweep(base, config, console)
        best = optima(rows)
        console.print(Fitting(best_table(best)))
        write_atomic(config.out / "widths.svg", picture(draw(rows, best), columns=2))
        console.print(f"written: {config.out}/runs.jsonl, widths.svg")
        result["best_lr"] = {f"{n} {w}": math.exp(o.log_lr) if o else None for (n, w), o in best.items()}
    config.answer(result, "\n".join(f"{n}: {'transfers' if ok else 'moves with width'}" for n, ok in passes.items()))
    return 0


def coordinate_checks(base: RunConfig, config: MupConfig) -> dict[str, list[Movement]]:
    from trainer.coordcheck import coordinate_check

    small = replace(base, model=replace(base.model, vocabulary=512, context=64), batch=64)
    return {
        name: coordinate_check(replace(small, parametrisation=name), widths=config.widths)
        for name in config.parametrisations
    }


def check_table(checks: dict[str, list[Movement]]) -> Table:
    """Slopes of movement over width: 0 where a parametrisation transfers."""
    from trainer.coordcheck import TOLERANCE

    title = f"coordinate check: slope over widths (passes within {TOLERANCE})"
    table = Table("", *checks, box=SIMPLE, title=title, title_justify="left")
    for movements in zip(*checks.values(), strict=True):
        table.add_row(movements[0].name, *(f"{m.slope:+.2f}" for m in movements))
    passes = (all(m.passes for m in found) for found in checks.values())
    table.add_row("verdict", *("transfers" if passed else "moves with width" for passed in passes))
    return table


def sweep(base: RunConfig, config: MupConfig, console: Console) -> list[dict]:
    """One row a run, kept as they end; what `out` has already is not trained again."""
    from trainer.loop import train

    path, data = config.out / "runs.jsonl", prepare(base.data, vocabulary=base.model.vocabulary)
    check_data(base, data)
    config.out.mkdir(parents=True, exist_ok=True)
    kept = read_json_lines(path) if path.exists() else []
    runs = [
        replace(
            base.shaped(base.model.depth, width, width // base.model.head_dim), parametrisation=name, lr=lr, seed=seed
        )
        for seed in range(base.seed, base.seed + config.seeds)
        for name in config.parametrisations
        for width in config.widths
        for lr in config.lrs
    ]
    done = {json.dumps(row.get("run")): row for row in kept}
    names = [json.dumps(to_dict(run)) for run in runs]
    todo = [(run, name) for run, name in zip(runs, names, strict=True) if name not in done]
    total = sum(run_flops(run) for run, _ in todo)
    console.print(f"{len(todo)} of {len(runs)} runs to train, {short(total)} FLOPs")
    for i, (run, name) in enumerate(todo):
        with console.status(f"{i + 1} of {len(todo)}: {run.parametrisation}, width {run.model.width}, lr {run.lr:g}"):
            *_, last = train(run, data)
        row = {
            "parametrisation": run.parametrisation,
            "width": run.model.width,
            "lr": run.lr,
            "loss": last.val_loss,
            "status": last.status,
            "run": json.loads(name),
        }
        done[name] = row
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return [done[name] for name in names]


def optima(rows: list[dict]) -> dict[tuple[str, int], Optimum | None]:
    """Of each (parametrisation, width)."""
    found = {}
    for key in dict.fromkeys((row["parametrisation"], row["width"]) for row in rows):
        mine = [r for r in rows if (r["parametrisation"], r["width"]) == key]
        ended = [r for r in mine if r["loss"] is not None]
        diverged = [r["lr"] for r in mine if r["loss"] is None]
        found[key] = fit_optimum([r["lr"] for r in ended], [r["loss"] for r in ended], diverged=diverged)
    return found


def best_table(best: dict[tuple[str, int], Optimum | None]) -> Table:
    """Best lr of each width, and d ln lr / d ln width."""
    names, widths = list(dict.fromkeys(n for n, _ in best)), list(dict.fromkeys(w for _, w in best))
    table = Table("width", *names, box=SIMPLE, title="best lr by width", title_justify="left")
    inside = {(n, w): o for (n, w), o in best.items() if o is not None and o.edge is None}
    for w in widths:
        lrs = (f"{math.exp(inside[n, w].log_lr):.2g}" if (n, w) in inside else "at the edge" for n in names)
        table.add_row(str(w), *lrs)
    slopes = []
    for name in names:
        found = {w: inside[name, w].log_lr for w in widths if (name, w) in inside}
        fitted = np.polyfit(np.log(list(found)), list(found.values()), 1) if len(found) > 1 else None
        slopes.append("-" if fitted is None else f"{fitted[0]:+.2f}")
    table.add_row("slope", *slopes)
    return table


def draw_checks(checks: dict[str, list[Movement]]) -> list[Chart]:
    """A panel for each parametrisation: how far activations moved, by width; dashed: too steep to transfer."""
    charts = []
    for name, found in checks.items():
        chart = Chart("width", "mean |activation now - at the start|", f"{name}: slopes", y_log=True, width=460)
        for i, m in enumerate(found):
            points = list(zip(m.sizes, m.moved, strict=True))
            chart.line(points, i, f"{m.name} {m.slope:+.2f}", dash=not m.passes)
            chart.dots(points, i, [f"{m.name}, width {size}: {moved:.2g}" for size, moved in points])
        charts.append(chart)
    return charts


def draw(rows: list[dict], best: dict[tuple[str, int], Optimum | None]) -> list[Chart]:
    """A panel for each parametrisation: loss against lr, a curve for each width, its optimum a large hollow dot."""
    names, widths = list(dict.fromkeys(n for n, _ in best)), list(dict.fromkeys(w for _, w in best))
    low = min(r["loss"] for r in rows if r["loss"] is not None)
    high = max(o.loss for o in best.values() if o is not None)
    charts = []
    for name in names:
        chart = Chart("peak learning rate", "validation loss (nats a token)", f"{name}: best lr (rings) over widths")
        chart.width, chart.y_range = 460, (low - 0.1, high + 0.8)
        for i, width in enumerate(widths):
            mine = [r for r in rows if r["parametrisation"] == name and r["width"] == width and r["loss"] is not None]
            lrs = sorted({r["lr"] for r in mine})
            means = [float(np.mean([r["loss"] for r in mine if r["lr"] == lr])) for lr in lrs]
            chart.line(list(zip(lrs, means, strict=True)), i, f"width {width}")
            chart.dots([(r["lr"], r["loss"]) for r in mine], i, r=2.5)
            if (o := best[name, width]) is not None and o.edge is None:
                chart.dots([(math.exp(o.log_lr), o.loss)], i, [f"best lr {math.exp(o.log_lr):.3g}"], r=6, hollow=True)
        charts.append(chart)
    return charts


if __name__ == "__main__":
    cli.run(main)
