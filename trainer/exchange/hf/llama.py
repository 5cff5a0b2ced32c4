"""LlamaForCausalLM, and Qwen3ForCausalLM, which has norms of queries and keys and a head size of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from trainer.config import ModelConfig
from trainer.exchange.hf.kind import Config, Kind, Name

LAYER = {
    "norm1": ("input_layernorm",), "norm2": ("post_attention_layernorm",), "attention.out": ("self_attn.o_proj",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "feed_forward.gate": ("mlp.gate_proj",), "feed_forward.up": ("mlp.up_proj",),
    "feed_forward.down": ("mlp.down_proj",),
}  # fmt: skip
NORMED = {**LAYER, "attention.q_norm": ("self_attn.q_norm",), "attention.k_norm": ("self_attn.k_norm",)}


def config(model: ModelConfig) -> Config:
    return {
        "hidden_act": "silu", "num_hidden_layers": model.depth, "num_attention_heads": model.heads,
        "hidden_size": model.width, "num_key_value_heads": model.n_kv_heads, "intermediate_size": model.hidden,
        "head_dim": model.query_dim, "max_position_embeddings": model.context, "vocab_size": model.vocabulary,
        "rms_norm_eps": model.norm_eps, "rope_theta": model.rope_base, "tie_word_embeddings": model.tied,
        "attention_bias": False, "mlp_bias": False,
    }  # fmt: skip


def model(config: Config, tensors: Mapping[str, Tensor], *, normed: bool = False) -> ModelConfig:
    rope, more = config.get("rope_parameters") or {}, dict[str, Any]()
    size = config.get("head_dim") or (128 if normed else None)
    if normed:
        own = None if size == config["hidden_size"] // config["num_attention_heads"] else size
        more = {"qk_norm": True, "qk_dim": own, "v_dim": own}
    return ModelConfig(
        depth=config["num_hidden_layers"], width=config["hidden_size"], heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads"), ffn=config["intermediate_size"],
        context=config["max_position_embeddings"], vocabulary=config["vocab_size"],
        tied=config.get("tie_word_embeddings", False), norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_base=config.get("rope_theta") or rope.get("rope_theta", 10000.0),
        positions="rope", norm="rmsnorm", activation="swiglu", bias=False, **more,
    )  # fmt: skip


def names(model: ModelConfig) -> Iterator[Name]:
    yield Name("embedding.weight", ("model.embed_tokens.weight",))
    for i in range(model.depth):
        for ours, theirs in (NORMED if model.qk_norm else LAYER).items():
            yield Name(f"blocks.{i}.{ours}.weight", tuple(f"model.layers.{i}.{t}.weight" for t in theirs))
    yield Name("norm.weight", ("model.norm.weight",))
    if not model.tied:
        yield Name("head.weight", ("lm_head.weight",))


ONLY: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"), "attention_bias": (False,), "mlp_bias": (False,), "rope_type": ("default",),
}  # fmt: skip
KIND = Kind(
    architecture="LlamaForCausalLM",
    family="llama",
    free=("tied", "norm_eps", "rope_base", "kv_heads"),
    config=config,
    model=model,
    names=names,
    only={**ONLY, "head_dim": (None,)},
    prefix="model.",
)
QWEN3 = Kind(
    architecture="Qwen3ForCausalLM",
    family="qwen3",
    free=("tied", "norm_eps", "rope_base", "kv_heads", "qk_dim", "v_dim"),
    config=config,
    model=partial(model, normed=True),
    names=names,
    only={**ONLY, "use_sliding_window": (False,)},
    prefix="model.",
    odd=lambda model: "" if model.query_dim == model.value_dim else "qk_dim and v_dim that differ",
)
