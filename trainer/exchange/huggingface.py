"""Folders of `transformers`: GPT2LMHeadModel and LlamaForCausalLM, written and read without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.errors import UserError
from trainer.exchange import tokenizer_json
from trainer.exchange.plain import Plain, tokenizer_name
from trainer.files import write_atomic

# (ours, theirs, whether theirs is the transpose: GPT-2's Conv1D)
GPT2 = (
    ("norm1.weight", "ln_1.weight", False), ("norm1.bias", "ln_1.bias", False),
    ("norm2.weight", "ln_2.weight", False), ("norm2.bias", "ln_2.bias", False),
    ("attention.qkv.weight", "attn.c_attn.weight", True), ("attention.qkv.bias", "attn.c_attn.bias", False),
    ("attention.out.weight", "attn.c_proj.weight", True), ("attention.out.bias", "attn.c_proj.bias", False),
    ("feed_forward.up.weight", "mlp.c_fc.weight", True), ("feed_forward.up.bias", "mlp.c_fc.bias", False),
    ("feed_forward.down.weight", "mlp.c_proj.weight", True), ("feed_forward.down.bias", "mlp.c_proj.bias", False),
)  # fmt: skip
LLAMA = (
    ("norm1.weight", "input_layernorm.weight"), ("norm2.weight", "post_attention_layernorm.weight"),
    ("attention.out.weight", "self_attn.o_proj.weight"), ("feed_forward.gate.weight", "mlp.gate_proj.weight"),
    ("feed_forward.up.weight", "mlp.up_proj.weight"), ("feed_forward.down.weight", "mlp.down_proj.weight"),
)  # fmt: skip


INDEX = "model.safetensors.index.json"  # of large models, in several files
# What a folder may say of the model without being another model than ours; a key that is absent is right.
GPT2_ONLY: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
}  # fmt: skip
LLAMA_ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"), "attention_bias": (False,), "mlp_bias": (False,),
    "rope_type": ("default",), "head_dim": (None,),
}  # fmt: skip


def found(path: Path) -> bool:
    return (path / "config.json").is_file() and any((path / name).is_file() for name in ("model.safetensors", INDEX))


def write(plain: Plain, folder: Path) -> None:
    model = plain.run.model
    if model.positions == "learned" and model.norm == "layernorm" and model.activation == "gelu":
        config, tensors = _gpt2_config(model), _to_gpt2(model, plain.tensors)
    elif (model.positions, model.norm, model.activation, model.bias) == ("rope", "rmsnorm", "swiglu", False):
        config, tensors = _llama_config(model), _to_llama(model, plain.tensors)
    else:
        raise UserError(
            f"transformers has no model with {model.positions} positions, {model.norm}, {model.activation} and "
            f"bias={model.bias} that hpt writes: GPT-2's and LLaMA's settings can be exported; --to pt takes any."
        )
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


def _gpt2_config(model: ModelConfig) -> dict[str, Any]:
    if model.n_kv_heads != model.heads:
        raise UserError("GPT2LMHeadModel has no grouped key/value heads: such a model leaves by --to pt only.")
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new",
        "n_layer": model.depth, "n_head": model.heads, "n_embd": model.width, "n_inner": model.hidden,
        "n_positions": model.context, "vocab_size": model.vocabulary, "layer_norm_epsilon": model.norm_eps,
        "tie_word_embeddings": model.tied, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    }  # fmt: skip


def _to_gpt2(model: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {"transformer.wte.weight": tensors["embedding.weight"], "transformer.wpe.weight": tensors["positions.weight"]}
    for i in range(model.depth):
        for ours, theirs, turned in GPT2:
            tensor = tensors.get(f"blocks.{i}.{ours}")
            if tensor is None:  # a model without biases is one whose biases are 0
                tensor = torch.zeros(tensors[f"blocks.{i}.{ours.removesuffix('bias')}weight"].shape[0])
            out[f"transformer.h.{i}.{theirs}"] = tensor.T if turned else tensor
    out["transformer.ln_f.weight"] = tensors["norm.weight"]
    out["transformer.ln_f.bias"] = tensors.get("norm.bias", torch.zeros(model.width))
    if not model.tied:
        out["lm_head.weight"] = tensors["head.weight"]
    return out


def _llama_config(model: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "num_hidden_layers": model.depth, "num_attention_heads": model.heads, "hidden_size": model.width,
        "num_key_value_heads": model.n_kv_heads, "intermediate_size": model.hidden, "head_dim": model.head_dim,
        "max_position_embeddings": model.context, "vocab_size": model.vocabulary, "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_base, "tie_word_embeddings": model.tied, "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip


def _to_llama(model: ModelConfig, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {"model.embed_tokens.weight": tensors["embedding.weight"], "model.norm.weight": tensors["norm.weight"]}
    queries, keys = model.heads * model.head_dim, model.n_kv_heads * model.head_dim
    for i in range(model.depth):
        for ours, theirs in LLAMA:
            out[f"model.layers.{i}.{theirs}"] = tensors[f"blocks.{i}.{ours}"]
        parts = tensors[f"blocks.{i}.attention.qkv.weight"].split([queries, keys, keys])
        for name, part in zip("qkv", parts, strict=True):
            out[f"model.layers.{i}.self_attn.{name}_proj.weight"] = part
    if not model.tied:
        out["lm_head.weight"] = tensors["head.weight"]
    return out


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
    if kind not in ("gpt2", "llama"):
        raise UserError(f"{folder} holds a model of type {kind!r}: hpt reads gpt2 and llama.")
    _check(config, folder)
    try:
        model, ours = _from_gpt2(config, tensors) if kind == "gpt2" else _from_llama(config, tensors)
    except KeyError as error:
        raise UserError(f"{folder} is incomplete: it has no {error}.") from None
    encoding = tokenizer_json.read(folder)
    data = DataConfig(tokenizer=tokenizer_name(encoding))
    run = RunConfig(model=model, data=data, tokens=model.context, batch=model.context, lr=1e-4)
    return Plain(run=run, tensors={name: t.float().contiguous() for name, t in ours.items()}, encoding=encoding)


def _check(config: dict[str, Any], folder: Path) -> None:
    """What would load without a word and compute something else is refused."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    said = config | ({"rope_type": kind} if (kind := rope.get("rope_type", rope.get("type"))) else {})
    if said.get("head_dim") == config.get("hidden_size", 0) // config.get("num_attention_heads", 1):
        said["head_dim"] = None
    for key, known in (GPT2_ONLY if config["model_type"] == "gpt2" else LLAMA_ONLY).items():
        if said.get(key, known[0]) not in known:
            raise UserError(
                f"{folder} is a {config['model_type']} with {key}={said[key]!r}, which hpt does not compute."
            )


def _from_gpt2(config: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    tensors = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    tied = config.get("tie_word_embeddings", True)
    model = ModelConfig(
        depth=config["n_layer"], width=config["n_embd"], heads=config["n_head"], ffn=config.get("n_inner"),
        context=config["n_positions"], vocabulary=config["vocab_size"], tied=tied,
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
    )  # fmt: skip
    ours = {"embedding.weight": tensors["wte.weight"], "positions.weight": tensors["wpe.weight"]}
    ours |= {"norm.weight": tensors["ln_f.weight"], "norm.bias": tensors["ln_f.bias"]}
    for i in range(model.depth):
        for name, theirs, turned in GPT2:
            tensor = tensors[f"h.{i}.{theirs}"]
            ours[f"blocks.{i}.{name}"] = tensor.T if turned else tensor
    if not tied:
        ours["head.weight"] = tensors["lm_head.weight"]
    return model, ours


def _from_llama(config: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    tied = config.get("tie_word_embeddings", False)
    rope = config.get("rope_parameters") or {}
    model = ModelConfig(
        depth=config["num_hidden_layers"], width=config["hidden_size"], heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads"), ffn=config["intermediate_size"],
        context=config["max_position_embeddings"], vocabulary=config["vocab_size"], tied=tied,
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_base=config.get("rope_theta") or rope.get("rope_theta", 10000.0),
        positions="rope", norm="rmsnorm", activation="swiglu", bias=False,
    )  # fmt: skip
    ours = {"embedding.weight": tensors["model.embed_tokens.weight"], "norm.weight": tensors["model.norm.weight"]}
    for i in range(model.depth):
        for name, theirs in LLAMA:
            ours[f"blocks.{i}.{name}"] = tensors[f"model.layers.{i}.{theirs}"]
        parts = [tensors[f"model.layers.{i}.self_attn.{name}_proj.weight"] for name in "qkv"]
        ours[f"blocks.{i}.attention.qkv.weight"] = torch.cat(parts)
    if not tied:
        ours["head.weight"] = tensors["lm_head.weight"]
    return model, ours
