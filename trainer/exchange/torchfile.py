"""model.pt: one file of plain tensors by hpt's names and a JSON string, for torch.load(weights_only=True)."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import torch

from trainer.checkpoint import write_atomic
from trainer.config import RunConfig, from_dict, to_dict
from trainer.errors import UserError
from trainer.exchange.plain import Plain


def found(path: Path) -> bool:
    return path.is_file() and path.suffix in (".pt", ".pth")


def write(plain: Plain, path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"model": plain.tensors, "run": json.dumps(to_dict(plain.run)), "step": plain.step}, buffer)
    write_atomic(path, buffer.getvalue())


def read(path: Path) -> Plain:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        run = from_dict(RunConfig, json.loads(content["run"]))
        return Plain(run=run, tensors=content["model"], step=content["step"])
    except (pickle.UnpicklingError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a file of plain tensors that hpt wrote ({type(error).__name__}).") from None
