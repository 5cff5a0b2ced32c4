"""`python -m hpt.convert`: models leave for transformers or llm.c, and come from there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from hpt.console import cli
from hpt.reports.numbers import short
from trainer.architecture.counts import parameters
from trainer.checkpoints.copies import here
from trainer.config import RunConfig, written
from trainer.data.tokenizer import NAMED
from trainer.errors import UserError

if TYPE_CHECKING:
    from trainer.exchange.plain import Plain


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(cli.Common):
    """Read a model in any format that is known, write it in another."""

    source: tyro.conf.Positional[str]
    """A run of hpt.train or a checkpoint file in one (also by address in an object store), a folder of transformers,
    llm.c's model_*.bin, or a .pt file."""
    out: tyro.conf.Positional[Path]
    """File or folder to write."""
    to: str
    """hf (a folder for transformers), llmc, llmc-bf16 (model_*.bin), pt (a file of plain tensors), hpt (a run); for
    small machines onnx, onnx-int8, gguf (8 bits), gguf-q4, gguf-f32."""
    tokenizer: str | None = None
    """Of a model that comes without one: a name such as gpt2, or a run's tokenizer.json."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(ConvertConfig, argv, "hpt.convert")

    from trainer.edge import EDGES  # torch: not for --help
    from trainer.exchange import FORMATS, come, leave, settle, with_tokenizer

    if config.to not in (known := [*FORMATS, *EDGES, "hpt"]):
        near = difflib.get_close_matches(config.to, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}."
        raise UserError(f"There is no format {config.to!r}: {hint}")
    source = here(config.source)
    if not source.exists():
        raise UserError(f"There is no {source}.")
    if config.out.exists() and (config.out.is_file() or any(config.out.iterdir())):
        raise UserError(f"{config.out} exists already: choose another place, or remove it.")
    plain = come(source)
    if config.tokenizer is not None:
        plain = with_tokenizer(plain, config.tokenizer)
    console, model = config.console(), plain.run.model
    size = short(parameters(model).total)
    if config.to in EDGES:
        return _edge(config, plain)
    if config.to != "hpt":
        leave(plain, config.to, config.out)
        console.print(f"{size} parameters written as {config.to} to {config.out}")
        config.answer({"out": config.out, "format": config.to}, str(config.out))
        return 0
    file = settle(plain, config.out)
    console.print(f"{size} parameters written as a run to {config.out}; train on from it with")
    start = f" --start-step {plain.step}" if plain.step else ""
    console.print(f"  --init-from {file}{start} --set {settings(plain.run)}", soft_wrap=True)
    more = {"checkpoint": file, "start_step": plain.step, "set": settings(plain.run)}
    config.answer({"out": config.out, "format": config.to, **more}, str(config.out))
    return 0


def _edge(config: ConvertConfig, plain: Plain) -> int:
    """Written, read back and held against the model on one text of any tokens."""
    from trainer.architecture.model import Transformer
    from trainer.edge import EDGES
    from trainer.edge.check import compare
    from trainer.edge.form import Torch
    from trainer.exchange import with_tokenizer

    console, model, edge = config.console(), plain.run.model, EDGES[config.to]
    if plain.encoding is None and plain.run.data.tokenizer in NAMED:
        plain = with_tokenizer(plain, plain.run.data.tokenizer)
    edge.write(plain, config.out)
    whole = Transformer(plain.run)
    for name, parameter in whole.named_parameters():
        parameter.data.copy_(plain.tensors[name])
    rows = plain.encoding.n_vocab if plain.encoding else model.vocabulary
    tokens = np.random.default_rng(0).integers(0, min(rows, model.vocabulary), (2, min(128, model.context)))
    found = compare(Torch(whole), edge.read(config.out), tokens)
    size = config.out.stat().st_size / 1e6
    console.print(
        f"{short(parameters(model).total)} parameters written as {config.to} to {config.out}, {size:,.1f} MB; read "
        f"back, logits (of deviation {found.scale:.3g}) differ by at most {found.difference:.2g}, and the likeliest "
        f"token is the same at {found.agreement:.1%} of places"
    )
    about = {"difference": found.difference, "agreement": found.agreement, "megabytes": size}
    config.answer({"out": config.out, "format": config.to, **about}, str(config.out))
    return 0


def settings(run: RunConfig) -> str:
    """All fields of a model, as --set takes them: a target's other values would make another model."""
    model = [f"model.{field.name}={written(getattr(run.model, field.name))}" for field in fields(run.model)]
    return " ".join([*model, *(["objective=masked"] if run.objective == "masked" else [])])


if __name__ == "__main__":
    cli.run(main)
