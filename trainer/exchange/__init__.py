"""Formats in which a model leaves and comes. One table; `plain` is what all of them read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer.checkpoint import checkpoint_path, save_checkpoint, write_atomic
from trainer.config import to_dict
from trainer.errors import UserError
from trainer.exchange import huggingface, llmc, torchfile
from trainer.exchange.plain import Plain, fold
from trainer.trained import Trained, open_trained


@dataclass(frozen=True)
class Format:
    write: Callable[[Plain, Path], None]
    read: Callable[[Path], Plain]
    found: Callable[[Path], bool]
    """Whether this path looks like one."""
    line: str


FORMATS = {
    "hf": Format(huggingface.write, huggingface.read, huggingface.found, "a folder that transformers loads"),
    "llmc": Format(llmc.write, llmc.read, llmc.found, "llm.c's model_%08d.bin, fp32 (version 3)"),
    "llmc-bf16": Format(llmc.write_bf16, llmc.read, lambda path: False, "the same in bf16 (version 5)"),
    "pt": Format(torchfile.write, torchfile.read, torchfile.found, "one file of plain tensors for torch.load"),
}


def leave(trained: Trained, kind: str, path: Path) -> None:
    """Write a trained model in a format of the table; what a format cannot say is a UserError."""
    tensors = {name: p.detach().cpu() for name, p in trained.model.named_parameters()}
    plain = Plain(run=trained.run, tensors=tensors, encoding=trained.encoding, step=trained.step)
    FORMATS[kind].write(fold(plain), path)


def come(path: Path) -> Plain:
    """Read a model in whatever format of the table (or of hpt) `path` is in."""
    for form in FORMATS.values():
        if form.found(path):
            return form.read(path)
    if (path / "checkpoints").is_dir() or path.suffix == ".safetensors":
        trained = open_trained(path, torch.device("cpu"))
        tensors = {name: p.detach() for name, p in trained.model.named_parameters()}
        return fold(Plain(run=trained.run, tensors=tensors, encoding=trained.encoding, step=trained.step))
    raise UserError(
        f"{path} is no model that hpt knows: it reads runs of hpt.train, folders of transformers (config.json and "
        "model.safetensors), llm.c's model_*.bin and files of plain tensors (.pt)."
    )


def settle(plain: Plain, folder: Path) -> None:
    """Write a model as a run of hpt, which can be evaluated, generated from, and trained on with --init-from."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in plain.tensors.items()}
    save_checkpoint(
        checkpoint_path(folder / "checkpoints", plain.step), tensors, {"step": plain.step, "run": to_dict(plain.run)}
    )
    if plain.tokenizer_file is not None:
        write_atomic(folder / "tokenizer.json", plain.tokenizer_file)
