"""A recorded sweep by cells: runs of one (N, D, batch), by rising lr."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from search.replay.checks import by_cell, check
from search.replay.columns import Columns
from search.replay.rows import Row, read
from search.replay.truth import Valley
from trainer.config import ModelConfig
from trainer.errors import UserError

SAME_LR = 0.03  # ln units: 3.45e-4 and 3.453e-4 are one grid point, and no sweep is meant to be finer
FEWEST = 3  # finished lrs of a cell, to interpolate


@dataclass(frozen=True)
class Cell:
    """Runs of one (N, D, B), by rising lr."""

    log_lr: np.ndarray
    """(points,) distinct to 3 %."""
    loss: np.ndarray
    """(points,) mean of repeated runs; infinite where they diverged."""
    spread: tuple[float, int] = (0.0, 0)
    """Sum of squares of repeated runs around their means, and its degrees of freedom."""


@dataclass(frozen=True)
class Table:
    """A sweep by cells."""

    name: str
    cells: dict[tuple[int, int, int], Cell]
    """By (N, D in tokens, B in tokens)."""
    models: dict[int, ModelConfig]
    """By N: shapes whose counts match."""
    notes: tuple[str, ...] = ()
    """What was merged or left out, one sentence each."""
    curves: dict[tuple[int, int, int], tuple[Row, ...]] = field(default_factory=dict)
    """Runs of each cell that have a loss curve."""

    @property
    def sizes(self) -> list[int]:
        return sorted({n for n, _, _ in self.cells})

    def batches(self, n: int, d: int) -> list[int]:
        """Measured at (N, D), rising; empty where nothing was."""
        return self._batches.get((n, d), [])

    def valley(self, n: int, d: int, b: int) -> Valley:
        """Of one cell, for the truth."""
        return Valley(self.cells[n, d, b].log_lr, self.cells[n, d, b].loss)

    def earliest(self, n: int, d: int, b: int) -> float:
        """Tokens from which the curves of a cell tell the losses of runs cut short; infinite: they do not."""
        starts = [row.curve[0, 0] for row in self.curves.get((n, d, b), ()) if row.curve is not None]
        return max(starts) if len(starts) >= FEWEST else math.inf

    def cut(self, n: int, d: int, b: int, tokens: float) -> Cell | None:
        """The cell as it was after so many tokens of its runs' curves; None where too few tell."""
        runs = [(math.log(row.lr), _then(row, tokens)) for row in self.curves.get((n, d, b), ())]
        cell = _cell([(lr, loss) for lr, loss in runs if not math.isnan(loss)])
        return cell if np.isfinite(cell.loss).sum() >= FEWEST else None

    @cached_property
    def _batches(self) -> dict[tuple[int, int], list[int]]:
        found: dict[tuple[int, int], list[int]] = {}
        for n, d, b in sorted(self.cells):
            found.setdefault((n, d), []).append(b)
        return found


def load_table(
    path: str | Path,
    columns: Columns | None = None,
    *,
    context: int | None = None,
    loss_cap: float | None = None,
    curves: str | Path | None = None,
) -> Table:
    """Read and check a sweep. UserError says what is wrong with the file, and in which run.

    context: tokens of a sequence, where batches are counted in those. loss_cap: final losses above are divergence.
    curves: a second file of (run, tokens, loss).
    """
    path = Path(path)
    found = read(path, columns or Columns(), context, None if curves is None else Path(curves))
    check(path, found, loss_cap)
    groups = by_cell(found.rows)
    twice = sum(len(runs) - len({(r.lr, r.loss, r.seed) for r in runs}) for runs in groups.values())
    found.note(twice, "are in the table twice, with the same loss: counted once.")
    cells = {
        key: _cell(sorted({(math.log(r.lr), r.loss, r.seed or "") for r in runs}))
        for key, runs in sorted(groups.items())
    }
    thin = [key for key, cell in cells.items() if np.isfinite(cell.loss).sum() < FEWEST]
    if len(thin) == len(cells):
        raise UserError(f"{path}: {_thin(cells)}")
    if thin:
        found.notes.append(f"{len(thin)} cells (N, D, batch) with fewer than {FEWEST} finished lrs: left out.")
    kept = {key: cell for key, cell in cells.items() if key not in thin}
    told = {key: tuple(r for r in groups[key] if r.curve is not None) for key in kept}
    return Table(path.name, kept, found.models, tuple(found.notes), {key: rows for key, rows in told.items() if rows})


def _thin(cells: dict[tuple[int, int, int], Cell]) -> str:
    most = max((len(cell.loss) for cell in cells.values()), default=0)
    if not most:
        return "no run in it can be used."
    if most == 1:
        return "every (N, D, batch) has a single lr, so no valley can be seen; a sweep to replay needs 3 lrs at some."
    return f"no (N, D, batch) has {FEWEST} lrs that finished; a sweep to replay needs some."


def _then(row: Row, tokens: float) -> float:
    """A run's loss after so many tokens; infinite: it had diverged; NaN: its curve does not say."""
    assert row.curve is not None
    at, loss = row.curve.T
    if tokens < at[0] * (1 - 1e-9):
        return math.nan
    if tokens > at[-1] * (1 + 1e-9):
        return math.inf if math.isinf(row.loss) else row.loss if tokens >= row.d else float(loss[-1])
    return float(np.interp(math.log(tokens), np.log(at), loss))


def _cell(runs: Iterable[tuple]) -> Cell:
    """Of (ln lr, loss, ...) in any order."""
    groups: list[list[tuple]] = []
    for run in sorted(runs):
        if groups and run[0] - groups[-1][0][0] < SAME_LR:
            groups[-1].append(run)
        else:
            groups.append([run])
    alive = [[loss for _, loss, *_ in g if loss < math.inf] for g in groups]
    means = [float(np.mean(a)) if 2 * len(a) > len(g) else math.inf for a, g in zip(alive, groups, strict=True)]
    squares = sum(float(np.sum((np.array(a) - np.mean(a)) ** 2)) for a in alive if len(a) > 1)
    freedom = sum(len(a) - 1 for a in alive if len(a) > 1)
    return Cell(np.array([np.mean([x for x, *_ in g]) for g in groups]), np.array(means), (squares, freedom))
