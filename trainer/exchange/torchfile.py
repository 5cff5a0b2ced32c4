"""model.pt: one file of plain tensors by hpt's names and JSON strings, for torch.load(weights_only=True)."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import torch

from trainer.config import RunConfig, from_dict, to_dict
from trainer.data.tokenizer import from_json, to_json
from trainer.errors import UserError
from trainer.exchange.plain import Plain
from trainer.files import write_atomic


def found(path: Path) -> bool:
    return path.is_file() and path.suffix in (".pt", ".pth")


def write(plain: Plain, path: Path) -> None:
    content = {"model": plain.tensors, "run": json.dumps(to_dict(plain.run)), "step": plain.step}
    if plain.encoding is not None:
        content["tokenizer"] = to_json(plain.encoding)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def read(path: Path) -> Plain:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        run = from_dict(RunConfig, json.loads(content["run"]))
        encoding = from_json(content["tokenizer"], path.stem) if "tokenizer" in content else None
        return Plain(run=run, tensors=dict(content["model"]), step=int(content["step"]), encoding=encoding)
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a file of plain tensors that hpt wrote ({type(error).__name__}).") from None
