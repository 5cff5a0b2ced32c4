"""What a table cannot be: units that do not fit, losses that rise with tokens, rows that contradict each other."""

from __future__ import annotations

import math
from pathlib import Path

from search.replay.rows import Row, Rows
from trainer.errors import UserError

HIGHEST_LR = 10.0
HIGHEST_LOSS = 20.0  # nats: guessing among 5e8 tokens; a perplexity, more likely
CONTRADICTION = 0.05  # of the loss, between runs that nothing tells apart; seeds of small models differ by 2 %
COMMON = 0.5  # share of repeated points from which repeats are seeds, whether or not a column says so
RISE = 0.005  # of the loss, from fewer tokens to more: less may be noise
DIVERGED = 1.5
"""Times the lowest loss of a cell, at an lr above its best: a run that blew up and still ended with a number. Valleys
reach 1.12 times there on Step Law's table, and what diverged begins at 1.55."""


def check(path: Path, found: Rows, loss_cap: float | None = None) -> None:
    """Mark what diverged and say so; UserError where the table cannot be what it is taken for."""
    _units(path, found.rows)
    found.note(_mark_diverged(found.rows, loss_cap), _words(loss_cap))
    _contradictions(path, found.rows)
    _tokens(path, found.rows)


def _units(path: Path, rows: list[Row]) -> None:
    for row in rows:
        if row.lr > HIGHEST_LR:
            raise UserError(f"{path}, run {row.line}: no lr is {row.lr:g}; give the column of the peak lr itself.")
        if row.loss <= 0:
            raise UserError(f"{path}, run {row.line}: a loss of {row.loss:g} is not one in nats a token.")
        if row.b > row.d:
            raise UserError(
                f"{path}, run {row.line}: a batch of {row.b:,} tokens is more than all {row.d:,} training tokens; "
                "check the units of both."
            )
    finite = [row.loss for row in rows if math.isfinite(row.loss)]
    if finite and min(finite) > HIGHEST_LOSS:
        raise UserError(f"{path}: all losses are above {HIGHEST_LOSS:g}, as perplexities are; give their logarithms.")


def _mark_diverged(rows: list[Row], cap: float | None) -> int:
    """Finite losses of runs that diverged become infinite; how many."""
    marked = 0
    for cell in by_cell(rows).values():
        best = min(cell, key=lambda row: row.loss)
        for row in cell:
            high = row.lr > best.lr and row.loss > DIVERGED * best.loss
            if math.isfinite(row.loss) and (row.loss > cap if cap is not None else high):
                row.loss, marked = math.inf, marked + 1
    return marked


def _words(cap: float | None) -> str:
    if cap is not None:
        return f"have a loss above {cap:g}: counted as diverged."
    return f"above the best lr have over {DIVERGED:g} times its loss: counted as diverged (--loss-cap sets the bound)."


def _contradictions(path: Path, rows: list[Row]) -> None:
    """Runs that nothing tells apart, and that ended far from each other."""
    points: dict[tuple, list[Row]] = {}
    for row in rows:
        points.setdefault((row.n, row.d, row.b, round(math.log(row.lr), 6), row.seed), []).append(row)
    repeated = [group for group in points.values() if len(group) > 1]
    if len(repeated) > COMMON * len(points):
        return  # seeds without a column of their own; near divergence they may well differ
    for group in repeated:
        alive = sorted((row for row in group if math.isfinite(row.loss)), key=lambda row: row.loss)
        if alive and (len(alive) < len(group) or alive[-1].loss > (1 + CONTRADICTION) * alive[0].loss):
            first, last = alive[0], next(row for row in group if row is not alive[0] and row.loss != alive[0].loss)
            raise UserError(
                f"{path}: runs {first.line} and {last.line} have the same N, D, batch and lr and contradict each other "
                f"(loss {first.loss:g} and {last.loss:g}): leave one out, or name the column that tells them apart, "
                "--columns.seed NAME."
            )


def _tokens(path: Path, rows: list[Row]) -> None:
    """More tokens never make the best loss worse everywhere, unless the columns are not what they are said to be."""
    floors: dict[tuple[int, int], dict[int, float]] = {}
    for (n, d, b), cell in by_cell(rows).items():
        if math.isfinite(lowest := min(row.loss for row in cell)):
            floors.setdefault((n, b), {})[d] = lowest
    pairs = [(f[low], f[high]) for f in floors.values() for low, high in zip(sorted(f), sorted(f)[1:], strict=False)]
    if pairs and all(more > (1 + RISE) * less for less, more in pairs):
        raise UserError(
            f"{path}: the best loss rises with the training tokens at every size, so D or the loss is not what its "
            "column is taken for; name them, --columns.d and --columns.loss."
        )


def by_cell(rows: list[Row]) -> dict[tuple[int, int, int], list[Row]]:
    """By (N, D, B)."""
    cells: dict[tuple[int, int, int], list[Row]] = {}
    for row in rows:
        cells.setdefault((row.n, row.d, row.b), []).append(row)
    return cells
