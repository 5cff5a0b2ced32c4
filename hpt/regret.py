"""`python -m hpt.regret`: what a search's recommendation gives up, judged by a dense grid at the same target.

The truth is that of `hpt.compare`: a smooth fit near the lowest loss, beside the grid as it stands.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from hpt.console import cli
from hpt.console.tables import Fitting
from hpt.reports.gather import read_answer
from search.execution.store import SearchDir
from search.records import Trial
from search.replay.truth import Valley
from trainer.config import RunConfig
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
    valley = curve.valley
    rows: list[dict[str, Any]] = [{"what": "best of the grid", "lr": math.exp(valley.centre)}]
    rows[0] |= judged(curve, rows[0]["lr"])
    if valley.fit is not None:
        best = math.exp(valley.best)
        rows.insert(0, {"what": "best by a smooth fit", "lr": best, **judged(curve, best)})
    rows += [searched(curve, path) for path in config.searches]
    rows += [{"what": f"fixed lr {lr:g}", "lr": lr, "trials": 0, "cost": 0.0, **judged(curve, lr)} for lr in config.lr]
    config.console().print(Fitting(table_of(rows, curve.spread), ("wait/trial", "% by grid", "trials")))
    words = [f"{row['what']}: {_words(row)}" for row in rows]
    config.answer(rows, "\n".join(words))
    return 0


def _words(row: dict[str, Any]) -> str:
    if row["lr"] is None:
        return "no recommendation"
    return "not judged, its lr is outside the grid's" if row["percent"] is None else f"{row['percent']:.2f} %"


@dataclass(frozen=True)
class Curve:
    """The truth of a target; `spread` is the sd between seeds, the median over lrs. lrs are logarithms."""

    valley: Valley
    spread: float
    run: RunConfig
    """The target."""

    def __call__(self, log_lr: float) -> float:
        """The smooth loss, nats."""
        return self.valley.at(log_lr)

    @property
    def best(self) -> float:
        return self.valley.best

    @property
    def lr(self) -> float:
        """The best one."""
        return math.exp(self.best)

    @property
    def low(self) -> float:
        """The lowest lr at which all runs finished, as `high` is the highest."""
        return float(self.valley.finished[0])

    @property
    def high(self) -> float:
        return float(self.valley.finished[-1])


def searched(curve: Curve, path: Path) -> dict[str, Any]:
    """A search as a row: what it recommends, what that gives up, what it cost."""
    directory = SearchDir(path)
    answer, trials = read_answer(directory), directory.read_trials()
    row: dict[str, Any] = {"what": path.name, "lr": answer["lr"]}
    if answer["lr"] is None or answer["interval90"] is None:
        return row
    low, high = answer["interval90"] or (math.nan, math.nan)
    waits = [t.seconds - t.train_seconds for t in trials if t.train_seconds]
    row |= {"in_90": low <= math.exp(curve.best) <= high, "trials": len(waits)}
    row |= {
        "cost": answer.get("bill", {}).get("share_of_target"),
        "wait_ms": 1e3 * float(np.median(waits)) if waits else None,
    }
    return row | judged(curve, answer["lr"])


def judged(curve: Curve, lr: float) -> dict[str, float | None]:
    """Loss, regret in nats and in per cent by the smooth fit, and by the grid. None beyond the grid's lrs: nothing is
    known there; infinite where a run of it diverged."""
    percent, grid = curve.valley.regret(lr)
    if math.isnan(percent):
        return {"loss": None, "regret": None, "percent": None, "percent_grid": None}
    lowest = curve.valley.lowest
    loss = max(curve(math.log(lr)), lowest)
    return {"loss": loss, "regret": loss - lowest, "percent": percent, "percent_grid": grid}


COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("what", "what", str),
    ("lr", "lr", "{:.3g}".format),
    ("loss", "loss", "{:.4f}".format),
    ("regret", "regret", "{:.4f}".format),
    ("%", "percent", "{:.2f}".format),
    ("% by grid", "percent_grid", "{:.2f}".format),
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
            cells[2] = "not judged"
        table.add_row(*cells)
    return table


def truth_curve(path: Path) -> Curve:
    """From the finished trials of a grid; runs at one lr are averaged. An lr at which any diverged counts as that."""
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
    finite = [values for values in losses.values() if all(map(math.isfinite, values))]
    if len(finite) < 4:
        raise UserError(f"{path} has {len(finite)} learning rates that finished; a curve needs four.")
    lrs = sorted(losses)
    valley = Valley(np.log(lrs), np.array([np.mean(losses[lr]) for lr in lrs]))
    if edge := valley.edge:
        words = "lower" if edge == "low" else "higher"
        raise UserError(
            f"The lowest loss of {path} is at its {words[:-2]}est lr that finished, {math.exp(valley.centre):.3g}, so "
            f"the best lr is not known: train {words} ones as well (--lr-range) and judge then."
        )
    spread = float(np.median([np.std(v, ddof=1) for v in finite if len(v) > 1] or [0.0]))
    return Curve(valley, spread, next(replace(t.run, lr=None) for t in trials if t.loss is not None))


if __name__ == "__main__":
    cli.run(main)
