"""A model without multipliers: tensors by hpt's names, in the standard parametrisation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import tiktoken
import torch
from torch import Tensor

from trainer.architecture.model import READS_QUERIES, WRITES, Transformer, last_norm
from trainer.architecture.parametrisation import forward_scale
from trainer.config import RunConfig
from trainer.data.tokenizer import NAMED
from trainer.errors import UserError

UNKNOWN = "unknown"
"""The tokenizer of a model that came without one that hpt can read."""


@dataclass(frozen=True, kw_only=True)
class Plain:
    run: RunConfig
    tensors: dict[str, Tensor]
    """As Transformer.named_parameters gives them."""
    encoding: tiktoken.Encoding | None = None
    """None where only its name is known (run.data.tokenizer), or nothing."""
    step: int = 0


def fold(plain: Plain) -> Plain:
    """The same function in the standard parametrisation: muP's and CompleteP's multipliers moved into weights.

    logits: into the final norm, which is linear in its weight and bias; residual: into what writes to the stream;
    attention: into the queries.
    """
    run, model, scales = plain.run, plain.run.model, forward_scale(plain.run)
    if run.parametrisation == "sp":
        return plain
    queries, final = model.heads * model.query_dim, last_norm(model)
    tensors = {}
    for name, tensor in plain.tensors.items():
        tensor = tensor.clone()
        if name.startswith(final):
            tensor *= scales.logits
        elif WRITES.search(name):
            tensor *= scales.residual
        elif model.qk_norm and name.endswith("q_norm.weight"):
            tensor *= scales.attention * model.query_dim**0.5
        elif not model.qk_norm and READS_QUERIES.search(name):
            tensor[:queries] *= scales.attention * model.query_dim**0.5
        tensors[name] = tensor
    return replace(plain, run=replace(run, parametrisation="sp"), tensors=tensors)


def tokenizer_name(encoding: tiktoken.Encoding | None) -> str:
    """What DataConfig calls it: a name that needs no file, where it is that one."""
    if encoding is None:
        return UNKNOWN
    if encoding.name in NAMED:
        return encoding.name
    # GPT-2's 50,257 ids, recognised by the numbers that everybody knows
    if encoding.n_vocab == 50257 and encoding.encode_ordinary("hello world") == [31373, 995]:
        return "gpt2"
    return f"bpe:{encoding.n_vocab}"


def check(plain: Plain, source: str) -> Plain:
    """`plain` itself, when its tensors are those of its own configuration; else a UserError that names `source`."""
    with torch.device("meta"):
        wanted = {name: tuple(p.shape) for name, p in Transformer(plain.run).named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in plain.tensors.items()}
    for name in (*wanted, *found):
        if wanted.get(name) != found.get(name):
            what = f"{found.get(name, 'missing')}, and its configuration says {wanted.get(name, 'none')}"
            raise UserError(f"{source} does not fit its own configuration: {name} is {what}.")
    return plain
