"""Checkpoints: one safetensors file, its state of progress in the header as JSON. No pickle."""

from __future__ import annotations

import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from trainer.errors import UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Write so that `path` holds the old content or the whole new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> Exception:
    """A sentence where the disk is full or read-only; the error itself otherwise."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk that holds {path.parent} is full: free some space, then go on with --resume.")
    if error.errno in (errno.EROFS, errno.EACCES):
        return UserError(f"{path.parent} cannot be written: choose another directory or change its permissions.")
    return error


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
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{source} is damaged or not a checkpoint of hpt ({reason}): delete it and resume.") from None


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.safetensors"


def newest_first(folder: Path) -> list[Path]:
    """Checkpoints in a folder, the one of the latest step first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _checksum(tensors: dict[str, Tensor]) -> int:
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().data, total)
    return total
