"""What is to be cleaned, how, and where to: all that every pass and every process needs to know."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import pyarrow

from trainer.data.corpus import Reading
from trainer.data.deduplication import Settings
from trainer.data.deduplication.signatures import VERSION
from trainer.data.filters import Filter, named
from trainer.data.filters.language import only
from trainer.data.filters.length import at_least
from trainer.data.filters.pattern import without
from trainer.data.folders import REPORTS
from trainer.errors import UserError
from trainer.files import write_atomic

FORMAT = 1  # of the work files


@dataclass(frozen=True, kw_only=True)
class Job:
    files: tuple[Path, ...]
    out: Path
    settings: Settings = field(default_factory=Settings)
    reading: Reading = field(default_factory=Reading)
    id_field: str = "id"
    """Field or column that names a document, where there is one."""
    filters: tuple[str, ...] = ()
    min_words: int = 0
    languages: tuple[str, ...] = ()
    pattern: str = ""
    against: tuple[Path, ...] = ()
    """Evaluation files: documents that hold their rows go."""
    against_words: int = 13
    duplicates: bool = True
    """Look for near-duplicates; else filters alone."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the files, from the folder that holds them all."""
        absolute = [path.absolute() for path in self.files]
        root = os.path.commonpath([path.parent for path in absolute])
        return tuple(str(path.relative_to(root)) for path in absolute)

    @property
    def reports(self) -> Path:
        return self.out / REPORTS

    @property
    def work(self) -> Path:
        return self.reports / "work"

    def build_filters(self) -> dict[str, Filter]:
        """In the order in which they are asked: the cheap ones first."""
        made: dict[str, Filter] = {}
        if self.min_words:
            made["length"] = at_least(self.min_words)
        if self.pattern:
            made["pattern"] = without(self.pattern)
        made |= named(self.filters)
        if self.languages:
            made["language"] = only(self.languages)
        return made

    def begin(self) -> None:
        """Takes `out`, or finds what an interrupted run of the same job left there; UserError for another's."""
        for path in self.files:
            if self.out.absolute() in path.absolute().parents:
                raise UserError(f"{path} lies in --out {self.out}: choose a folder outside the corpus.")
        mark = self.reports / "job.json"
        if mark.exists():
            if json.loads(mark.read_text()).get("key") != self.key:
                raise UserError(
                    f"{self.out} holds what was made of other files or with other settings: choose another --out, or "
                    "delete it."
                )
        elif self.out.exists() and any(self.out.iterdir()):
            raise UserError(f"{self.out} is not empty and was not made by this command: choose another --out.")
        else:
            write_atomic(mark, json.dumps({"key": self.key, "settings": asdict(self.settings)}, indent=1).encode())
        self.work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def key(self) -> str:
        """Of all that shapes the result, the files' contents by size and time of change."""
        stats = [(str(p.absolute()), (s := p.stat()).st_size, s.st_mtime_ns) for p in (*self.files, *self.against)]
        shaping = [
            FORMAT, asdict(self.settings), asdict(self.reading), self.id_field, self.filters, self.min_words,
            self.languages, self.pattern, self.against_words, self.duplicates, stats,
            VERSION, pyarrow.__version__.split(".")[0],
        ]  # fmt: skip
        return hashlib.blake2b(json.dumps(shaping).encode(), digest_size=12).hexdigest()
