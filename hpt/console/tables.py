"""Tables that fit: where a terminal is narrow, columns are left out, and no number is cut to "5.43…"."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Column, Table

NOTE = 18
"""Columns of the screen that a note has at least."""
ENDLESS = Console(width=1000)


@dataclass(frozen=True)
class Fitting:
    """The table without as many of its `optional` columns (by header, the first goes first) as the width demands. Notes
    (a column without a header) are wrapped, and where nothing is left to be left out the first column is."""

    table: Table
    optional: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        tried = (without(self.table, self.optional[:n]) for n in range(len(self.optional) + 1))
        fits = (t for t in tried if _measured(t).minimum <= options.max_width)
        yield next(fits, without(self.table, self.optional, wrapped=True))


def without(table: Table, headers: Sequence[str], wrapped: bool = False) -> Table:
    """A copy without these columns, nor one that is empty; `wrapped`: its first column is on as many lines as need
    be."""
    kept = [c for c in table.columns if c.header not in headers and (c.header or c.footer or any(c.cells))]
    found = copy(table)
    found.columns = [replace(column, _index=i, overflow="fold") for i, column in enumerate(kept)]
    for i, column in enumerate(found.columns):
        if column.header and not (wrapped and i == 0):
            column.min_width, column.no_wrap = _width(column), True
        elif not column.header and i:
            column.min_width = None if wrapped else min(NOTE, _width(column))
    return found


def _width(column: Column) -> int:
    return max(_measured(cell).maximum for cell in (column.header, column.footer, *column.cells))


def _measured(what: Table | object) -> Measurement:
    return Measurement.get(ENDLESS, ENDLESS.options, what)  # type: ignore[arg-type]
