"""GPTNeoForCausalLM: blocks of global and of local attention by turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from trainer.config import ModelConfig
from trainer.exchange.hf.kind import Config, Kind, Name, both

KINDS = {"global": 0, "local": 1}


def config(model: ModelConfig) -> Config:
    windows = [model.windows[i % len(model.windows)] for i in range(model.depth)]
    return {
        "activation_function": "gelu_new", "num_layers": model.depth, "num_heads": model.heads,
        "hidden_size": model.width, "intermediate_size": model.hidden, "max_position_embeddings": model.context,
        "vocab_size": model.vocabulary, "layer_norm_epsilon": model.norm_eps, "tie_word_embeddings": True,
        "attention_types": [[["local" if window else "global" for window in windows], 1]],
        "window_size": max(windows) or 256, "attention_dropout": 0.0, "embed_dropout": 0.0, "resid_dropout": 0.0,
    }  # fmt: skip


def model(config: Config, tensors: Mapping[str, Tensor]) -> ModelConfig:
    layers = [kind for kinds, count in config["attention_types"] for kind in kinds * count]
    windows = tuple(KINDS[kind] * config["window_size"] for kind in layers)
    # The shortest pattern that gives the same when it is repeated.
    period = next(p for p in range(1, len(windows) + 1) if all(w == windows[i % p] for i, w in enumerate(windows)))
    return ModelConfig(
        depth=config["num_layers"], width=config["hidden_size"], heads=config["num_heads"],
        ffn=config.get("intermediate_size"), context=config["max_position_embeddings"],
        vocabulary=config["vocab_size"], norm_eps=config.get("layer_norm_epsilon", 1e-5), qkv_bias=False,
        scaled_attention=False, windows=windows[:period],
    )  # fmt: skip


def names(model: ModelConfig) -> Iterator[Name]:
    yield Name("embedding.weight", ("transformer.wte.weight",))
    yield Name("positions.weight", ("transformer.wpe.weight",))
    for i in range(model.depth):
        ours, theirs = f"blocks.{i}", f"transformer.h.{i}"
        yield from both(f"{ours}.norm1", f"{theirs}.ln_1")
        yield from both(f"{ours}.norm2", f"{theirs}.ln_2")
        parts = tuple(f"{theirs}.attn.attention.{x}_proj.weight" for x in "qkv")
        yield Name(f"{ours}.attention.qkv.weight", parts)
        yield from both(f"{ours}.attention.out", f"{theirs}.attn.attention.out_proj")
        yield from both(f"{ours}.feed_forward.up", f"{theirs}.mlp.c_fc")
        yield from both(f"{ours}.feed_forward.down", f"{theirs}.mlp.c_proj")
    yield from both("norm", "transformer.ln_f")


def odd(model: ModelConfig) -> str:
    several = len({window for window in model.windows if window}) > 1
    return f"windows of several sizes ({','.join(map(str, model.windows))})" if several else ""


KIND = Kind(
    architecture="GPTNeoForCausalLM",
    family="gptneo",
    free=("norm_eps", "windows", "rope_base"),
    config=config,
    model=model,
    names=names,
    only={"activation_function": ("gelu_new", "gelu_pytorch_tanh"), "tie_word_embeddings": (True,)},
    prefix="transformer.",
    odd=odd,
)
