"""Checkpoints from which trials are continued: in the search directory, or where all nodes of a cluster see them. No
Ray here."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainer.errors import UserError
from trainer.storage import Store


@dataclass(frozen=True)
class Trunks:
    """By the id of the trial that left them. In an object store they are copied from and to a folder of this process
    while a pack is trained."""

    address: str
    """A folder or an address as `trainer.storage.Store` has them."""

    @cached_property
    def _store(self) -> Store:
        return Store(self.address)

    @cached_property
    def _folder(self) -> Path:
        if self._store.local is not None:
            return self._store.local
        folder = Path(tempfile.mkdtemp(prefix="hpt-trunks-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder

    def path(self, trial: str) -> Path:
        """Where training writes it; in a store it is there after `put`."""
        return self._folder / _name(trial)

    def put(self, trial: str) -> None:
        """What was written is where others find it."""
        if self._store.local is None:
            self._store.put(self.path(trial), _name(trial))

    def found(self, trial: str) -> Path:
        """The file on this machine. It may be missing: whoever reads it says so."""
        path = self.path(trial)
        if self._store.local is None and not path.exists():
            try:
                self._store.fetch(_name(trial), path)
            except UserError:  # there is none, or the store is away: the trial is trained from its start
                path.unlink(missing_ok=True)
        return path

    def delete(self, trial: str) -> None:
        """Gone already is fine."""
        self._store.delete(_name(trial))


def _name(trial: str) -> str:
    return f"{trial}.safetensors"
