"""Folders of `transformers`, written and read without it: the kinds of trainer.exchange.hf."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.errors import UserError
from trainer.exchange import tokenizer_json
from trainer.exchange.hf import KINDS
from trainer.exchange.plain import Plain, tokenizer_name
from trainer.files import write_atomic

INDEX = "model.safetensors.index.json"  # of large models, in several files


def found(path: Path) -> bool:
    return (path / "config.json").is_file() and any((path / name).is_file() for name in ("model.safetensors", INDEX))


def write(plain: Plain, folder: Path) -> None:
    model = plain.run.model
    name = next((n for n, kind in KINDS.items() if kind.writes and not kind.differs(model) and not kind.odd(model)), "")
    if not name:
        raise UserError(_unfit(model))
    kind = KINDS[name]
    config = {"architectures": [kind.architecture], "model_type": name, **kind.config(model)}
    tensors = kind.renamed(model, plain.tensors)
    end = plain.encoding.eot_token if plain.encoding else None
    config |= {"bos_token_id": end, "eos_token_id": end, "dtype": "float32"}
    write_atomic(folder / "config.json", json.dumps(config, indent=2).encode())
    generation = {"bos_token_id": end, "eos_token_id": end, "_from_model_config": True}
    write_atomic(folder / "generation_config.json", json.dumps(generation).encode())
    held = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomic(folder / "model.safetensors", save(held, metadata={"format": "pt"}))
    if plain.encoding is not None:
        write_atomic(folder / "tokenizer.json", tokenizer_json.written(plain.encoding).encode())
        end_text = plain.encoding.decode([plain.encoding.eot_token])
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end_text, "eos_token": end_text}
        about |= {"model_max_length": model.context, "clean_up_tokenization_spaces": False}
        write_atomic(folder / "tokenizer_config.json", json.dumps(about).encode())


def _unfit(model: ModelConfig) -> str:
    """Why no model of transformers that hpt writes computes this one: the nearest, and what it lacks."""
    nearest = min((kind for kind in KINDS.values() if kind.writes), key=lambda kind: len(kind.differs(model)))
    lacks = ", ".join(nearest.differs(model)) or nearest.odd(model)
    return (
        f"transformers has no model with these settings that hpt writes: the nearest, {nearest.architecture}, has no "
        f"{lacks}; --to pt takes any."
    )


def read(folder: Path) -> Plain:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        files = ["model.safetensors"]
        if (folder / INDEX).is_file():
            files = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
        tensors = {name: tensor for file in files for name, tensor in load_file(folder / file).items()}
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{folder} cannot be read ({error}): fetch or write it again.") from None
    kind = config.get("model_type")
    if kind not in KINDS:
        raise UserError(f"{folder} holds a model of type {kind!r}: hpt reads {', '.join(KINDS)}.")
    _check(config, folder)
    try:
        model, ours = KINDS[kind].ours(config, tensors)
    except KeyError as error:
        raise UserError(f"{folder} is incomplete: it has no {error}.") from None
    encoding = tokenizer_json.read(folder)
    data = DataConfig(tokenizer=tokenizer_name(encoding))
    objective = "next" if model.causal else "masked"
    run = RunConfig(model=model, data=data, tokens=model.context, batch=model.context, lr=1e-4, objective=objective)
    return Plain(run=run, tensors={name: t.float().contiguous() for name, t in ours.items()}, encoding=encoding)


def _check(config: dict[str, Any], folder: Path) -> None:
    """What would load without a word and compute something else is refused."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    said = config | ({"rope_type": kind} if (kind := rope.get("rope_type", rope.get("type"))) else {})
    if said.get("head_dim") == config.get("hidden_size", 0) // config.get("num_attention_heads", 1):
        said["head_dim"] = None
    for key, known in KINDS[config["model_type"]].only.items():
        if said.get(key, known[0]) not in known:
            raise UserError(
                f"{folder} is a {config['model_type']} with {key}={said[key]!r}, which hpt does not compute."
            )
