"""Architectures as a table: each a row of settings of trainer.config, by dotted name. `--set family=NAME` sets them.

Every row is met numerically with `transformers` (tests/test_trainer_families.py, docs/architectures.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from trainer.errors import UserError

_BERT: Mapping[str, Any] = {
    "model.causal": False, "model.norm_place": "post", "model.activation": "gelu_exact", "model.norm_eps": 1e-12,
    "model.embedding_norm": True, "model.head_transform": True, "model.head_bias": True, "objective": "masked",
}  # fmt: skip
_LLAMA: Mapping[str, Any] = {
    "model.positions": "rope", "model.norm": "rmsnorm", "model.activation": "swiglu", "model.bias": False,
    "model.tied": False,
}  # fmt: skip
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    # Radford et al. 2019: the defaults of ModelConfig
    "gpt2": {},
    # Touvron et al. 2023 (arXiv 2302.13971)
    "llama": _LLAMA,
    # EleutherAI 2021: every other block looks 256 tokens back, products of queries and keys are not scaled
    "gptneo": {"model.qkv_bias": False, "model.scaled_attention": False, "model.windows": (0, 256)},
    # Devlin et al. 2018 (arXiv 1810.04805), without token types and next-sentence prediction
    "bert": _BERT,
    # Liu et al. 2019 (arXiv 1907.11692): BERT trained otherwise; roberta-base has another epsilon
    "roberta": {**_BERT, "model.norm_eps": 1e-5},
    # Qwen team 2025 (arXiv 2505.09388): LLaMA with queries and keys normalised
    "qwen3": {**_LLAMA, "model.qk_norm": True, "model.norm_eps": 1e-6, "model.rope_base": 1e6},
}
DEFAULTS: Mapping[str, Any] = {
    "model.causal": True, "model.layout": "af", "model.norm_place": "pre", "model.qkv_bias": None,
    "model.qk_norm": False, "model.scaled_attention": True, "model.windows": (0,), "model.embedding_norm": False,
    "model.head_transform": False, "model.head_bias": False, "model.parallel": False, "model.ffn_layers": 1,
    "model.logit_cap": 0.0,
    "model.positions": "learned", "model.norm": "layernorm", "model.activation": "gelu", "model.bias": True,
    "model.tied": True, "model.norm_eps": 1e-5, "model.rope_base": 10000.0, "objective": "next",
}  # fmt: skip
"""GPT-2's value of everything that a family may say: a family is a whole row, whatever the run was before."""


def settings(name: str) -> dict[str, Any]:
    """All that the family `name` says, by dotted field."""
    if name not in FAMILIES:
        near = difflib.get_close_matches(name, FAMILIES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(FAMILIES)}."
        raise UserError(f"There is no family of models called {name!r}: {hint}")
    return {**DEFAULTS, **FAMILIES[name]}
