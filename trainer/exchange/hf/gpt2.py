"""GPT2LMHeadModel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from trainer.config import ModelConfig
from trainer.exchange.hf.kind import Config, Kind, Name, both

LAYER = {
    "norm1": "ln_1", "norm2": "ln_2", "attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj",
    "feed_forward.up": "mlp.c_fc", "feed_forward.down": "mlp.c_proj",
}  # fmt: skip


def config(model: ModelConfig) -> Config:
    return {
        "activation_function": "gelu_new", "n_layer": model.depth, "n_head": model.heads, "n_embd": model.width,
        "n_inner": model.hidden, "n_positions": model.context, "vocab_size": model.vocabulary,
        "layer_norm_epsilon": model.norm_eps, "tie_word_embeddings": model.tied, "attn_pdrop": 0.0, "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }  # fmt: skip


def model(config: Config, tensors: Mapping[str, Tensor]) -> ModelConfig:
    return ModelConfig(
        depth=config["n_layer"], width=config["n_embd"], heads=config["n_head"], ffn=config.get("n_inner"),
        context=config["n_positions"], vocabulary=config["vocab_size"], tied=config.get("tie_word_embeddings", True),
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
    )  # fmt: skip


def names(model: ModelConfig) -> Iterator[Name]:
    yield Name("embedding.weight", ("transformer.wte.weight",))
    yield Name("positions.weight", ("transformer.wpe.weight",))
    for i in range(model.depth):
        for ours, theirs in LAYER.items():
            turned = "norm" not in ours
            yield from both(f"blocks.{i}.{ours}", f"transformer.h.{i}.{theirs}", turned=turned)
    yield from both("norm", "transformer.ln_f")
    if not model.tied:
        yield Name("head.weight", ("lm_head.weight",))


KIND = Kind(
    architecture="GPT2LMHeadModel",
    family="gpt2",
    free=("bias", "tied", "norm_eps", "rope_base"),
    config=config,
    model=model,
    names=names,
    only={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    prefix="transformer.",
)
