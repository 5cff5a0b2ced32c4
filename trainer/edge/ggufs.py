"""GGUF for llama.cpp, of models that are GPT-2's or LLaMA's; read back into the model for a check."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.architecture.model import Transformer
from trainer.config import ModelConfig, RunConfig
from trainer.edge.form import Torch, package
from trainer.errors import UserError
from trainer.exchange import tokenizer_json
from trainer.exchange.hf import KINDS
from trainer.exchange.hf.kind import Kind
from trainer.exchange.plain import Plain, fold

ARCHITECTURES = ("gpt2", "llama")
NORMAL, CONTROL = 1, 3
"""Kinds of tokens in a GGUF vocabulary."""
FILE_TYPES = {"F32": 0, "Q4_0": 2, "Q8_0": 7}


def writer(kind: str) -> Callable[[Plain, Path], None]:
    return lambda plain, path: write(plain, path, kind)


def write(plain: Plain, path: Path, quantised: str) -> None:
    """Matrices in the given type, where their rows are multiples of its blocks of 32; norms, biases and positions in
    F32."""
    gguf, plain = package("gguf"), fold(plain)
    name, kind = _kind(plain.run.model)
    if plain.encoding is None:
        raise UserError("GGUF holds the tokenizer as well, and this model comes without one: name it with --tokenizer.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    out = gguf.GGUFWriter(str(temporary), name)
    try:
        _describe(out, plain, name)
        _vocabulary(out, plain)
        wanted = gguf.GGMLQuantizationType[quantised]
        out.add_file_type(FILE_TYPES[quantised])
        out.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for theirs, tensor in kind.renamed(plain.run.model, plain.tensors).items():
            array = _laid_out(name, theirs, tensor, plain.run.model)
            plainly = array.ndim < 2 or "wpe" in theirs or array.shape[-1] % 32 or quantised == "F32"
            called = _names(gguf, name, plain.run.model)(theirs)
            if plainly:
                out.add_tensor(called, array)
            else:
                out.add_tensor(called, gguf.quants.quantize(array, wanted), raw_dtype=wanted)
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
    finally:
        out.close()
    os.replace(temporary, path)


def _kind(model: ModelConfig) -> tuple[str, Kind]:
    for name in ARCHITECTURES:
        if not KINDS[name].differs(model) and not KINDS[name].odd(model):
            return name, KINDS[name]
    nearest = min(ARCHITECTURES, key=lambda name: len(KINDS[name].differs(model)))
    lacks = ", ".join(KINDS[nearest].differs(model)) or KINDS[nearest].odd(model)
    raise UserError(
        f"llama.cpp has no model with these settings that hpt writes: its {nearest} has no {lacks}; --to onnx "
        "takes any."
    )


def _describe(out: Any, plain: Plain, name: str) -> None:
    model = plain.run.model
    out.add_name("hpt")
    out.add_context_length(model.context)
    out.add_embedding_length(model.width)
    out.add_block_count(model.depth)
    out.add_feed_forward_length(model.hidden)
    out.add_head_count(model.heads)
    if name == "llama":
        out.add_head_count_kv(model.n_kv_heads)
        out.add_layer_norm_rms_eps(model.norm_eps)
        out.add_rope_dimension_count(model.query_dim)
        out.add_rope_freq_base(model.rope_base)
        out.add_vocab_size(model.vocabulary)
    else:
        out.add_layer_norm_eps(model.norm_eps)
    out.add_string("hpt.model", json.dumps({"kind": name, "config": KINDS[name].config(model)}))


def _vocabulary(out: Any, plain: Plain) -> None:
    """As byte-level BPE; rows of a padded embedding get names of their own."""
    assert plain.encoding is not None
    values = json.loads(tokenizer_json.written(plain.encoding))
    ids = {token: at for token, at in values["model"]["vocab"].items()}
    special = {item["content"]: item["id"] for item in values["added_tokens"]}
    names = {at: token for token, at in (ids | special).items()}
    rows = plain.run.model.vocabulary
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list([names.get(i, f"[PAD{i}]") for i in range(rows)])
    out.add_token_types([NORMAL if i in ids.values() else CONTROL for i in range(rows)])
    merges = values["model"]["merges"]
    out.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    end = plain.encoding.eot_token
    out.add_bos_token_id(end)
    out.add_eos_token_id(end)
    out.add_add_bos_token(False)


def _names(gguf: Any, name: str, model: ModelConfig) -> Callable[[str], str]:
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name.upper()], model.depth)

    def called(theirs: str) -> str:
        found = table.get_name(theirs, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise UserError(f"The gguf package has no name for the tensor {theirs}: use another version of it.")
        return found

    return called


def _laid_out(name: str, theirs: str, tensor: Tensor, model: ModelConfig) -> np.ndarray:
    """As llama.cpp wants a tensor of transformers: GPT-2's Conv1D turned, LLaMA's queries and keys in pairs."""
    if name == "gpt2" and tensor.dim() == 2 and ".h." in theirs:
        tensor = tensor.T
    if name == "llama" and ".q_proj" in theirs:
        tensor = _paired(tensor, model.heads)
    if name == "llama" and ".k_proj" in theirs:
        tensor = _paired(tensor, model.n_kv_heads)
    return np.ascontiguousarray(tensor.float().numpy())


def _paired(weight: Tensor, heads: int) -> Tensor:
    """Halves of a head's channels as neighbours: [H x 2 x E/2, C] -> [H x E/2 x 2, C]."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _halved(weight: Tensor, heads: int) -> Tensor:
    """The inverse."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def read(path: Path) -> Torch:
    """A file that `write` wrote, its weights in fp32 again. How fast llama.cpp is with it, this does not tell."""
    gguf = package("gguf")
    reader = gguf.GGUFReader(str(path))
    field = reader.get_field("hpt.model")
    if field is None:
        raise UserError(f"{path} was not written by hpt.")
    about = json.loads(field.contents())
    name, kind, held = about["kind"], KINDS[about["kind"]], dict[str, np.ndarray]()
    for tensor in reader.tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        held[tensor.name] = array.reshape([int(n) for n in reversed(tensor.shape)])
    config: dict[str, Any] = about["config"]
    model = kind.model(config, {})
    called, theirs = _names(gguf, name, model), dict[str, Tensor]()
    for wanted in (t for n in kind.names(model) for t in n.theirs):
        theirs[wanted] = _as_theirs(name, wanted, torch.from_numpy(np.array(held[called(wanted)])), model)
    model, ours = kind.ours(config, theirs)
    run = RunConfig(model=model, tokens=model.context, batch=model.context, lr=1e-4)
    made = Transformer(replace(run, data=replace(run.data, val_tokens=model.context)))
    for own, parameter in made.named_parameters():
        parameter.data.copy_(ours[own])
    return Torch(made)


def _as_theirs(name: str, theirs: str, tensor: Tensor, model: ModelConfig) -> Tensor:
    """The inverse of _laid_out."""
    if name == "gpt2" and tensor.dim() == 2 and ".h." in theirs:
        return tensor.T
    if name == "llama" and ".q_proj" in theirs:
        return _halved(tensor, model.heads)
    if name == "llama" and ".k_proj" in theirs:
        return _halved(tensor, model.n_kv_heads)
    return tensor
