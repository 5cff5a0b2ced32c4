"""`python -m hpt.regret`: what a search's recommendation gives up, judged by a dense grid at the same target."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table
from scipy.interpolate import PchipInterpolator

from hpt.console import cli
from hpt.reports.gather import read_answer
from search.execution.store import SearchDir
from search.records import Trial
from trainer.errors import UserError
from trainer.files import read_json_lines


@dataclass(frozen=True, kw_only=True)
class RegretConfig(cli.Common):
    """Regret of recommendations, in nats and per cent of the best loss, and the overhead of their searches."""

    searches: tuple[Path, ...]
    """Search directories."""
    truth: Path
    """trials.jsonl of a search with --strategy grid at the same target."""
    lr: tuple[float, ...] = (6e-4, 3e-3)
    """Fixed lrs to judge beside them."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(RegretConfig, argv, "hpt.regret")
    curve = truth_curve(config.truth)
    best = curve.best
    rows: list[dict[str, Any]] = [
        {"what": "best of the grid", "lr": math.exp(best), "loss": curve(best), "regret": 0.0, "percent": 0.0}
    ]
    rows += [searched(curve, path) for path in config.searches]
    rows += [{"what": f"fixed lr {lr:g}", "lr": lr, "trials": 0, "cost": 0.0, **judged(curve, lr)} for lr in config.lr]
    config.console().print(table_of(rows, curve.spread))
    words = [f"{row['what']}: {row['percent']:.2f} %" for row in rows if row.get("percent") is not None]
    config.answer(rows, "\n".join(words))
    return 0


@dataclass(frozen=True)
class Curve:
    """Loss over ln lr through the grid's means; `spread` is the sd between seeds, the median over lrs."""

    at: PchipInterpolator
    low: float
    high: float
    spread: float

    def __call__(self, log_lr: float) -> float:
        return float(self.at(log_lr))

    @property
    def best(self) -> float:
        grid = np.linspace(self.low, self.high, 2001)
        return float(grid[np.argmin(self.at(grid))])


def searched(curve: Curve, path: Path) -> dict[str, Any]:
    """A search as a row: what it recommends, what that gives up, what it cost."""
    directory = SearchDir(path)
    answer, trials = read_answer(directory), directory.read_trials()
    row: dict[str, Any] = {"what": path.name, "lr": answer["lr"]}
    if answer["lr"] is None or answer["interval90"] is None:
        return row
    low, high = answer["interval90"]
    waits = [t.seconds - t.train_seconds for t in trials if t.train_seconds]
    row |= {"in_90": low <= math.exp(curve.best) <= high, "trials": len(waits)}
    row |= {
        "cost": answer.get("bill", {}).get("share_of_target"),
        "wait_ms": 1e3 * float(np.median(waits)) if waits else None,
    }
    return row | judged(curve, answer["lr"])


def judged(curve: Curve, lr: float) -> dict[str, float | None]:
    """Loss, regret in nats, regret in per cent; outside the grid there is no answer."""
    if not curve.low <= math.log(lr) <= curve.high:
        return {"loss": None, "regret": None, "percent": None}
    loss, best = curve(math.log(lr)), curve(curve.best)
    return {"loss": loss, "regret": loss - best, "percent": 100 * (loss / best - 1)}


COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("what", "what", str),
    ("lr", "lr", "{:.3g}".format),
    ("loss", "loss", "{:.4f}".format),
    ("regret", "regret", "{:.4f}".format),
    ("%", "percent", "{:.2f}".format),
    ("in 90 %", "in_90", lambda held: "yes" if held else "no"),
    ("trials", "trials", str),
    ("cost", "cost", "{:.0%}".format),
    ("wait/trial", "wait_ms", "{:.0f} ms".format),
)


def table_of(rows: list[dict[str, Any]], spread: float) -> Table:
    table = Table(box=SIMPLE, title=f"losses scatter by {spread:.3f} nats between seeds")
    for header, _, _ in COLUMNS:
        table.add_column(header, justify="left" if header == "what" else "right")
    for row in rows:
        cells = [written(row[key]) if row.get(key) is not None else "" for _, key, written in COLUMNS]
        if row["lr"] is None:
            cells[1] = "none"
        elif row["loss"] is None:
            cells[2] = "outside"
        table.add_row(*cells)
    return table


def truth_curve(path: Path) -> Curve:
    """From the finished trials of a grid; runs at one lr are averaged. An lr at which any diverged is left out."""
    losses: dict[float, list[float]] = defaultdict(list)
    if not path.exists():
        raise UserError(f"There is no grid {path}: make one with python -m hpt.search --strategy grid.")
    trials = []
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            trials.append(Trial.from_json(row))
        except (UserError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number} is no trial of a search ({error}).") from None
    for trial in trials:
        if trial.status in ("finished", "diverged"):
            losses[trial.lr].append(math.inf if trial.loss is None else trial.loss)
    finite = {lr: values for lr, values in sorted(losses.items()) if all(map(math.isfinite, values))}
    if len(finite) < 4:
        raise UserError(f"{path} has {len(finite)} learning rates that finished; a curve needs four.")
    logs = [math.log(lr) for lr in finite]
    spread = float(np.median([np.std(v, ddof=1) for v in finite.values() if len(v) > 1] or [0.0]))
    return Curve(PchipInterpolator(logs, [np.mean(v) for v in finite.values()]), logs[0], logs[-1], spread)


if __name__ == "__main__":
    cli.run(main)
