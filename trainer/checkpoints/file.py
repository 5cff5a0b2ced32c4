"""Checkpoints: one safetensors file, its state of progress in the header as JSON. No pickle."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from trainer.errors import UserError
from trainer.files import write_atomic


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """`state` is any JSON value and comes back equal."""
    write_atomic(path, pack(tensors, state))


def pack(tensors: dict[str, Tensor], state: dict[str, Any]) -> bytes:
    """The content of a checkpoint file. A checksum of the tensors goes with them: safetensors has none of its own."""
    held = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    return save(held, metadata={"hpt": json.dumps(state), "crc32": str(_checksum(held))})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Raises UserError for a file that is missing, damaged or not ours."""
    try:
        return unpack(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None


def unpack(content: bytes, source: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of `pack`; `source` names the file in errors."""
    try:
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size])["__metadata__"]
        tensors, state = load(content), json.loads(metadata["hpt"])
        if metadata["crc32"] != str(_checksum(tensors)):
            raise ValueError("its checksum does not fit its content")
        return tensors, state
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(source, error) from None


def step_of(state: dict[str, Any], source: object) -> int:
    """Of a training's state; UserError for a checkpoint of something else."""
    step = state.get("step") if isinstance(state, dict) else None
    if not isinstance(step, int) or isinstance(step, bool) or step < 0 or not isinstance(state.get("run"), dict):
        raise UserError(f"{source} is no checkpoint of a run (it does not say which run, and at which step).")
    return step


class Lazy(Mapping[str, Tensor]):
    """The tensors of a checkpoint file, each read when it is asked for: a large model is never in memory whole."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self._names = frozenset(self._file.keys())
        self.metadata = self._file.metadata() or {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_checkpoint(path: Path, check: bool = True) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """As load_checkpoint, tensor by tensor. check: read through it once and compare the checksum."""
    try:
        tensors = Lazy(path)
        state = json.loads(tensors.metadata["hpt"])
        if check and tensors.metadata["crc32"] != str(_checksum(tensors)):
            raise ValueError("its checksum does not fit its content")
        return tensors, state
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except (SafetensorError, KeyError, ValueError, TypeError, RecursionError, OSError) as error:
        raise _damaged(str(path), error) from None


def _damaged(source: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:120]
    return UserError(f"{source} is damaged or not a checkpoint of hpt ({reason}): delete it and resume.")


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def newest_first(folder: Path) -> list[Path]:
    """Checkpoints in a folder, the one of the latest step first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _checksum(tensors: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data, total)
    return total
