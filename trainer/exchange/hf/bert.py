"""BertForMaskedLM and RobertaForMaskedLM: one model under two sets of names.

Token types are folded into the positions (type 0 is added to every token of one segment). RoBERTa's positions begin
behind its padding's; it is read only: transformers takes each token of its padding's id, which is an ordinary one in
hpt's vocabularies, out of the count of positions. Such a model leaves as BertForMaskedLM, which computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from trainer.config import ModelConfig
from trainer.exchange.hf.kind import Config, Kind, Name, both

LAYER = {
    "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "attention.out": ("attention.output.dense",), "norm1": ("attention.output.LayerNorm",),
    "feed_forward.up": ("intermediate.dense",), "feed_forward.down": ("output.dense",), "norm2": ("output.LayerNorm",),
}  # fmt: skip
HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}


def config(model: ModelConfig) -> Config:
    return {
        "hidden_act": "gelu", "num_hidden_layers": model.depth, "num_attention_heads": model.heads,
        "hidden_size": model.width, "intermediate_size": model.hidden, "max_position_embeddings": model.context,
        "vocab_size": model.vocabulary, "layer_norm_eps": model.norm_eps, "type_vocab_size": 1,
        "tie_word_embeddings": True, "position_embedding_type": "absolute", "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0, "is_decoder": False, "pad_token_id": None,
    }  # fmt: skip


def model(config: Config, tensors: Mapping[str, Tensor], *, kind: str) -> ModelConfig:
    before = offset(config) if kind == "roberta" else 0
    return ModelConfig(
        depth=config["num_hidden_layers"], width=config["hidden_size"], heads=config["num_attention_heads"],
        ffn=config["intermediate_size"], context=config["max_position_embeddings"] - before,
        vocabulary=config["vocab_size"], norm_eps=config.get("layer_norm_eps", 1e-12), causal=False, norm_place="post",
        activation="gelu_exact", embedding_norm=True, head_transform=True, head_bias=True,
    )  # fmt: skip


def offset(config: Config) -> int:
    """Rows of RoBERTa's positions before the first token's."""
    return 1 + config.get("pad_token_id", 1)


def names(model: ModelConfig, *, kind: str) -> Iterator[Name]:
    yield Name("embedding.weight", (f"{kind}.embeddings.word_embeddings.weight",))
    yield Name("positions.weight", (f"{kind}.embeddings.position_embeddings.weight",))
    yield from both("embedding_norm", f"{kind}.embeddings.LayerNorm")
    for i in range(model.depth):
        for ours, theirs in LAYER.items():
            yield from both(f"blocks.{i}.{ours}", *(f"{kind}.encoder.layer.{i}.{t}" for t in theirs))
    dense, norm, bias = HEADS[kind]
    yield from both("head_transform.dense", dense)
    yield from both("head_transform.norm", norm)
    yield Name("head_bias", (bias,))


def prepare(config: Config, tensors: dict[str, Tensor], *, kind: str) -> dict[str, Tensor]:
    places, types = (f"{kind}.embeddings.{name}_embeddings.weight" for name in ("position", "token_type"))
    rows = tensors[places][offset(config) if kind == "roberta" else 0 :]
    return {**tensors, places: rows + tensors[types][0] if types in tensors else rows}


def finish(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    words = tensors["bert.embeddings.word_embeddings.weight"]
    return {**tensors, "bert.embeddings.token_type_embeddings.weight": torch.zeros(1, words.shape[1])}


def _kind(kind: str, architecture: str, family: str) -> Kind:
    return Kind(
        architecture=architecture,
        family=family,
        free=("norm_eps", "rope_base"),
        config=config,
        model=partial(model, kind=kind),
        names=partial(names, kind=kind),
        only={
            "hidden_act": ("gelu",),
            "position_embedding_type": ("absolute", None),
            "is_decoder": (False,),
            "add_cross_attention": (False,),
            "tie_word_embeddings": (True,),
        },
        prefix=f"{kind}.",
        prepare=partial(prepare, kind=kind),
        finish=finish,
        writes=kind == "bert",
    )


KIND, ROBERTA = _kind("bert", "BertForMaskedLM", "bert"), _kind("roberta", "RobertaForMaskedLM", "roberta")
