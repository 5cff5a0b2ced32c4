"""A model without multipliers: tensors by hpt's names, in the standard parametrisation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import tiktoken
from torch import Tensor

from trainer.config import RunConfig
from trainer.parametrisation import forward_scale


@dataclass(frozen=True, kw_only=True)
class Plain:
    run: RunConfig
    tensors: dict[str, Tensor]
    """As Transformer.named_parameters gives them."""
    encoding: tiktoken.Encoding | None = None
    step: int = 0
    tokenizer_file: bytes | None = None
    """tokenizer.json as trainer.data.tokenizer writes it, where one came along."""


def fold(plain: Plain) -> Plain:
    """The same function in the standard parametrisation: muP's and CompleteP's multipliers moved into weights.

    logits: into the final norm, which is linear in its weight and bias; residual: into what writes to the stream;
    attention: into the queries.
    """
    run, model, scales = plain.run, plain.run.model, forward_scale(plain.run)
    if run.parametrisation == "sp":
        return plain
    queries = model.heads * model.head_dim
    tensors = {}
    for name, tensor in plain.tensors.items():
        tensor = tensor.clone()
        if name.startswith("norm."):
            tensor *= scales.logits
        elif ".attention.out." in name or ".feed_forward.down." in name:
            tensor *= scales.residual
        elif ".attention.qkv." in name:
            tensor[:queries] *= scales.attention * model.head_dim**0.5
        tensors[name] = tensor
    return replace(plain, run=replace(run, parametrisation="sp"), tensors=tensors)
