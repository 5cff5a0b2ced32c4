"""What the first pass left of all files, as one numbering of the signed documents."""
# pyarrow.compute's functions are made as it is imported, unseen by the checker.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.data.cleaning.job import Job
from trainer.data.cleaning.sign import stem
from trainer.data.deduplication import Settings
from trainer.data.deduplication.bands import keys


@dataclass(frozen=True)
class Signed:
    """Documents with a signature, numbered through all files in order. Signatures stay on disk until asked for."""

    job: Job

    @cached_property
    def ends(self) -> np.ndarray:
        """int64 [files]: the number behind each file's last document."""
        width = 4 * self.width
        return np.cumsum([stem(self.job, i).with_suffix(".u32").stat().st_size // width for i in self._files])

    @property
    def width(self) -> int:
        settings = self.job.settings
        return 2 if settings.exact else settings.values

    @property
    def _files(self) -> range:
        return range(len(self.job.files))

    def __len__(self) -> int:
        return int(self.ends[-1])

    def file(self, number: int) -> np.ndarray:
        """uint32 [documents, values] of one file, memory-mapped."""
        path = stem(self.job, number).with_suffix(".u32")
        if not path.stat().st_size:
            return np.zeros((0, self.width), np.uint32)
        return np.memmap(path, np.uint32, "r").reshape(-1, self.width)

    def __getitem__(self, documents: np.ndarray) -> np.ndarray:
        """Signatures of any documents, uint32 [n, values]."""
        files = np.searchsorted(self.ends, documents, side="right")
        found = np.empty((len(documents), self.width), np.uint32)
        for number in np.unique(files):
            here = files == number
            found[here] = self.file(number)[documents[here] - self.first(number)]
        return found

    def first(self, number: int) -> int:
        """The number of a file's first document."""
        return int(self.ends[number - 1]) if number else 0

    def keys(self, band: int, settings: Settings) -> np.ndarray:
        """uint64 [documents] of one band."""
        return np.concatenate([keys(self.file(i), band, settings) for i in self._files])

    def words(self) -> np.ndarray:
        """int32 [documents]."""
        columns = [self._column(i, "words") for i in self._files]
        return np.concatenate([column[column > 0] for column in columns])

    def rows(self, number: int) -> np.ndarray:
        """int64: the row of each document of a file."""
        return np.flatnonzero(self._column(number, "words") > 0)

    def places(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """File and row of each document, int64 [n] both."""
        files, rows = np.searchsorted(self.ends, documents, side="right"), np.empty(len(documents), np.int64)
        for number in np.unique(files):
            here = files == number
            rows[here] = self.rows(number)[documents[here] - self.first(number)]
        return files, rows

    def kept_by_filters(self, number: int) -> np.ndarray:
        """bool [rows]: of a file."""
        column = pq.read_table(stem(self.job, number).with_suffix(".parquet"), columns=["reason"]).column(0)
        return pc.is_null(column).to_numpy()

    def _column(self, number: int, name: str) -> np.ndarray:
        return pq.read_table(stem(self.job, number).with_suffix(".parquet"), columns=[name]).column(0).to_numpy()
