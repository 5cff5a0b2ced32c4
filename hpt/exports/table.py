"""A row a trial, for spreadsheets and `hpt.compare --table`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from hpt.reports.gather import Found
from hpt.tracking.row import real, row_of
from trainer.files import write_atomic


def to_csv(found: Found, address: str) -> int:
    text, rows = io.StringIO(), [row_of(t) for t in real(found.trials)]
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["id"])
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(Path(address), text.getvalue().encode())
    return len(rows)
