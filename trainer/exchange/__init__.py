"""Formats in which a model leaves and comes. One table; `plain` is what all of them read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trainer.checkpoints.file import checkpoint_path, save_checkpoint
from trainer.checkpoints.trained import Trained, open_trained
from trainer.config import to_dict
from trainer.data.tokenizer import NAMED, load_tokenizer, to_json
from trainer.errors import UserError
from trainer.exchange import huggingface, llmc, torchfile
from trainer.exchange.plain import Plain, check, fold, tokenizer_name
from trainer.files import write_atomic


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


def leave(plain: Plain, kind: str, path: Path) -> None:
    """Write a model in a format of the table; what a format cannot say is a UserError."""
    if plain.encoding is None and plain.run.data.tokenizer in NAMED:
        plain = replace(plain, encoding=load_tokenizer(plain.run.data.tokenizer))
    FORMATS[kind].write(fold(plain), path)


def from_trained(trained: Trained) -> Plain:
    tensors = {name: p.detach().cpu() for name, p in trained.model.named_parameters()}
    return Plain(run=trained.run, tensors=tensors, encoding=trained.encoding, step=trained.step)


def come(path: Path) -> Plain:
    """Read a model in whatever format of the table (or of hpt) `path` is in."""
    for form in FORMATS.values():
        if form.found(path):
            return check(form.read(path), str(path))
    if (path / "checkpoints").is_dir() or path.suffix == ".safetensors":
        return from_trained(open_trained(path, torch.device("cpu")))
    raise UserError(
        f"{path} is no model that hpt knows: it reads runs of hpt.train, folders of transformers (config.json and "
        "model.safetensors), llm.c's model_*.bin and files of plain tensors (.pt)."
    )


def with_tokenizer(plain: Plain, spec: str) -> Plain:
    """A model that came without its tokenizer, given one by name or by a run's tokenizer.json."""
    encoding, rows = load_tokenizer(spec), plain.run.model.vocabulary
    if encoding.n_vocab > rows:
        raise UserError(f"Tokenizer {spec} has {encoding.n_vocab:,} ids and the model {rows:,}: it is another's.")
    data = replace(plain.run.data, tokenizer=tokenizer_name(encoding))
    return replace(plain, encoding=encoding, run=replace(plain.run, data=data))


def settle(plain: Plain, folder: Path) -> Path:
    """Write a model as a run of hpt, which can be evaluated, generated from, and trained on with --init-from the
    checkpoint that is returned."""
    named = plain.run.data.tokenizer in NAMED
    if plain.encoding is None and not named:
        raise UserError("The model comes without a tokenizer that hpt can read: name it with --tokenizer.")
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in plain.tensors.items()}
    file = checkpoint_path(folder / "checkpoints", plain.step)
    if plain.encoding is not None and not named:
        write_atomic(folder / "tokenizer.json", to_json(plain.encoding).encode())
    save_checkpoint(file, tensors, {"step": plain.step, "run": to_dict(plain.run)})
    return file
