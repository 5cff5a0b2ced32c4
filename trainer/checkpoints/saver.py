"""Checkpoints of a run while it goes on: written in the background, the newest few kept, the newest whole one found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.storage import Store

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from torch import Tensor

FOLDER = "checkpoints"


def name_of(step: int) -> str:
    return f"{FOLDER}/step-{step:08d}.safetensors"


@dataclass
class Saver:
    """Of one run; used by its first worker alone."""

    store: Store
    keep: int = 3
    """Newest checkpoints that stay."""
    _thread: threading.Thread | None = field(default=None, repr=False)
    _error: BaseException | None = field(default=None, repr=False)

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], copied: bool = False) -> None:
        """Copies now (unless they are copies already), writes in the background. Raises what the write before met."""
        self.wait()
        copies = tensors
        if not copied:
            copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        self._thread = threading.Thread(target=self._write, args=(step, copies, state), daemon=False)
        self._thread.start()

    def _write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        from trainer.checkpoints.file import pack

        try:
            self.store.write(name_of(step), pack(tensors, state))
            for old in self.store.names(FOLDER)[: -self.keep]:
                self.store.delete(old)
        except BaseException as error:  # raised where training can tell it
            self._error = error

    def wait(self) -> None:
        """Until the checkpoint under way is written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def newest(self, say: Callable[[str], None]) -> tuple[Mapping[str, Tensor], dict[str, Any], str] | None:
        """(tensors, state, name) of the newest checkpoint that is whole; damaged ones are named to `say`."""
        for name in reversed(self.store.names(FOLDER)):
            try:
                if (found := self.open(name)) is not None:
                    return *found, name
            except UserError as error:
                say(str(error).replace(": delete it and resume.", ": the one before it is used."))
        return None

    def open(self, name: str, check: bool = True) -> tuple[Mapping[str, Tensor], dict[str, Any]] | None:
        """(tensors, state); of a folder's file tensor by tensor, of an object store's at once. None: it is gone."""
        from trainer.checkpoints.file import open_checkpoint, unpack

        if self.store.local is not None:
            path = self.store.local / name
            return open_checkpoint(path, check) if path.is_file() else None
        content = self.store.read(name)
        return None if content is None else unpack(content, self.store.join(name))
