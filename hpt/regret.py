"""`python -m hpt.regret`: what a search's recommendation gives up, judged by a dense grid at the same target."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from scipy.interpolate import PchipInterpolator

from hpt import cli
from search.records import Trial
from search.store import SearchDir
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class RegretConfig:
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
    table = Table(box=SIMPLE)
    for header in ("what", "lr", "loss", "regret", "%", "in 90 %", "trials", "cost", "wait/trial"):
        table.add_column(header, justify="left" if header == "what" else "right")
    best = curve.best
    table.title = f"losses scatter by {curve.spread:.3f} nats between seeds"
    table.add_row("best of the grid", f"{math.exp(best):.3g}", f"{curve(best):.4f}", "0", "0", "", "", "", "")
    for path in config.searches:
        directory = SearchDir(path)
        answer, trials = directory.read_recommendation(), directory.read_trials()
        if answer["lr"] is None:
            table.add_row(path.name, "none", *[""] * 7)
            continue
        low, high = answer["interval90"]
        covered = "yes" if low <= math.exp(best) <= high else "no"
        waits = [t.seconds - t.train_seconds for t in trials if t.train_seconds]
        cost = f"{answer['bill']['share_of_target']:.0%}"
        row = [covered, str(len(waits)), cost, f"{1e3 * float(np.median(waits)):.0f} ms"]
        table.add_row(path.name, f"{answer['lr']:.3g}", *judged(curve, answer["lr"]), *row)
    for lr in config.lr:
        table.add_row(f"fixed lr {lr:g}", f"{lr:.3g}", *judged(curve, lr), "", "0", "0%", "")
    Console(highlight=False).print(table)
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


def judged(curve: Curve, lr: float) -> tuple[str, str, str]:
    """Loss, regret in nats, regret in per cent; outside the grid there is no answer."""
    if not curve.low <= math.log(lr) <= curve.high:
        return "outside", "", ""
    loss, best = curve(math.log(lr)), curve(curve.best)
    return f"{loss:.4f}", f"{loss - best:.4f}", f"{100 * (loss / best - 1):.2f}"


def truth_curve(path: Path) -> Curve:
    """From the finished trials of a grid; runs at one lr are averaged. An lr at which any diverged is left out."""
    losses: dict[float, list[float]] = defaultdict(list)
    try:
        trials = [Trial.from_json(json.loads(line)) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise UserError(f"There is no grid {path}: make one with python -m hpt.search --strategy grid.") from None
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
