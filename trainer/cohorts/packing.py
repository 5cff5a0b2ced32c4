"""How much memory a cohort takes, and so how many members fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.architecture.counts import banded, parameters
from trainer.config import ModelConfig, RunConfig
from trainer.devices import free_memory, use_bf16

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    import torch

MARGIN = 1.25
"""What the allocator wastes and the model below does not know of."""


def state_bytes(model: ModelConfig) -> int:
    """Of one member, whatever the batch: weights, gradients and two moments in fp32; the step's copy of the gradient
    and its work buffer; the weights in bf16; the head's gradient, which the loss holds until its backward pass."""
    return (4 * 4 + 2 * 4 + 2) * parameters(model).total + 6 * model.vocabulary * model.width


def activation_bytes(model: ModelConfig, bf16: bool) -> int:
    """What the forward pass of one token keeps for the backward pass: inputs of norms in fp32, the rest as computed."""
    width, item = model.width, 2 if bf16 else 4
    queries, values = model.heads * model.query_dim, model.heads * model.value_dim
    keys = model.n_kv_heads * model.query_dim
    read = queries + keys + model.n_kv_heads * model.value_dim
    turned = (queries + keys) * ((model.positions == "rope") + 2 * model.qk_norm)
    repeated = queries + values if model.n_kv_heads != model.heads else 0
    attention = read + turned + repeated + 2 * values
    feed_forward = model.hidden * (4 if model.gated else 2 * model.ffn_layers)
    norm = (2 * 4 + item) * width
    parts = model.depth * (model.layout.count("a") * attention + model.layout.count("f") * feed_forward)
    chunked = sum(banded(model, model.window(i), model.context) for i in range(model.depth)) * model.layout.count("a")
    parts += chunked * (3 * queries + 3 * values)  # keys and values in two chunks each, queries and what is read again
    ends = model.embedding_norm + 2 * model.head_transform
    return model.depth * len(model.layout) * norm + item * parts + (2 * 4 + 2 * item) * width + ends * norm


def cohort_bytes(run: RunConfig, members: int, device: torch.device, fused: bool) -> int:
    """Peak memory of a cohort. In turn, only one member's activations exist at a time."""
    from trainer.architecture.loss import CHUNK_BYTES
    from trainer.cohorts.fused import pass_sequences

    sequences = pass_sequences(run, members if fused else 1, device)
    tokens = (members if fused else 1) * sequences * run.model.context
    activations = tokens * activation_bytes(run.model, use_bf16(run, device))
    logits = 3 * max(CHUNK_BYTES[device.type], 4 * run.model.vocabulary)
    return int(MARGIN * (members * state_bytes(run.model) + activations + logits))


def pack_size(run: RunConfig, device: torch.device, *, fused: bool | None = None, limit: int = 256) -> int:
    """The most members of `run`'s shape, at most `limit`, that fit into what memory is free; at least one."""
    from trainer.cohorts.population import not_carried

    fused = device.type == "cuda" and not not_carried(run) if fused is None else fused
    free, size = free_memory(device), limit
    while size > 1 and cohort_bytes(run, size, device, fused) > free:
        size -= 1
    return size
