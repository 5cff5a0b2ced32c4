"""Folders of `transformers`: GPT2LMHeadModel and LlamaForCausalLM, written and read without it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiktoken
import torch
from safetensors.torch import load_file, save
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from trainer.checkpoint import write_atomic
from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.data.tokenizer import byte_characters
from trainer.errors import UserError
from trainer.exchange.plain import Plain

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


def found(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "model.safetensors").is_file()


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
        write_atomic(folder / "tokenizer.json", _tokenizer(plain.encoding).to_str().encode())
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
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    kind = config.get("model_type")
    if kind not in ("gpt2", "llama"):
        raise UserError(f"{folder} holds a model of type {kind!r}: hpt reads gpt2 and llama.")
    try:
        model, ours = _from_gpt2(config, tensors) if kind == "gpt2" else _from_llama(config, tensors)
    except KeyError as error:
        raise UserError(f"{folder} is incomplete: it has no {error}.") from None
    encoding = "gpt2" if model.vocabulary in (50257, 50304) else "unknown"
    run = RunConfig(
        model=model, data=DataConfig(tokenizer=encoding), tokens=model.context, batch=model.context, lr=1e-4
    )
    return Plain(run=run, tensors={name: t.float().contiguous() for name, t in ours.items()})


def _from_gpt2(config: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    tensors = {name.removeprefix("transformer."): t for name, t in tensors.items()}
    tied = config.get("tie_word_embeddings", True)
    model = ModelConfig(
        depth=config["n_layer"], width=config["n_embd"], heads=config["n_head"], ffn=config.get("n_inner"),
        context=config["n_positions"], vocabulary=config["vocab_size"], tied=tied,
        norm_eps=config["layer_norm_epsilon"],
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
        context=config["max_position_embeddings"], vocabulary=config["vocab_size"], norm_eps=config["rms_norm_eps"],
        rope_base=config.get("rope_theta") or rope.get("rope_theta", 10000.0), tied=tied,
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


def _tokenizer(encoding: tiktoken.Encoding) -> Tokenizer:
    """The same byte-level BPE for `tokenizers`: tiktoken keeps ranks only, so each token's merge is found again as the
    last pair that the lower ranks leave of it."""
    ranks, letters = encoding._mergeable_ranks, byte_characters()

    def written(token: bytes) -> str:
        return "".join(letters[b] for b in token)

    merges = [
        (written(pair[0]), written(pair[1]))
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
        if len(token) > 1 and (pair := _last_merge(token, rank, ranks)) is not None
    ]
    vocabulary = {written(token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([  # type: ignore[assignment]
        pre_tokenizers.Split(Regex(encoding._pat_str), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    specials = sorted(encoding._special_tokens.items(), key=lambda item: item[1])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text, _ in specials])
    return tokenizer


def _last_merge(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two parts that were merged into `token`; None where ranks below its own do not leave two."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        candidates = [(ranks.get(a + b, rank), i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False))]
        best, i = min(candidates)
        if best >= rank:
            return None
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return (parts[0], parts[1]) if len(parts) == 2 else None
