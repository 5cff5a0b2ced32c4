"""One run on several workers: how gradients, losses and decisions are shared. Alone, everything here is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.architecture.model import Transformer

LossFunction = Callable[..., Tensor]
"""(tokens, targets, documents) -> mean loss of these sequences."""


class _Loss(nn.Module):
    """DistributedDataParallel synchronises what its forward touches, and a Transformer's forward gives logits."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        return self.model.loss(tokens, targets, documents)


@dataclass
class Parallel:
    """The workers of one run: torch.distributed's default group, or this process alone."""

    rank: int = 0
    size: int = 1
    kind: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each worker holds the whole model; fsdp: a share of it (fully_shard), for models that do not fit."""
    compile: bool = False

    @staticmethod
    def current(kind: Literal["ddp", "fsdp"] = "ddp", compile: bool = False) -> Parallel:
        if not dist.is_initialized():
            return Parallel(compile=compile)
        return Parallel(dist.get_rank(), dist.get_world_size(), kind, compile)

    def shard(self, model: Transformer) -> None:
        """Before the optimiser is made: replace parameters by this worker's shares."""
        if self.kind == "fsdp" and dist.is_initialized():
            from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

            for block in model.blocks:
                fully_shard(block)
            fully_shard(model)
            register_fsdp_forward_method(model, "loss")

    def loss_function(self, model: Transformer) -> LossFunction:
        if self.compile:
            model.loss = torch.compile(model.loss)  # type: ignore[method-assign]
        if self.size == 1 or self.kind == "fsdp":
            return model.loss
        from torch.nn.parallel import DistributedDataParallel  # slow to import, and most runs are alone

        device = model.embedding.weight.device
        ids = [device.index or 0] if device.type == "cuda" else None
        self._wrapped = DistributedDataParallel(
            _Loss(model), device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False
        )
        return self._wrapped

    def share(self, sequences: int) -> slice:
        """This worker's part of a step's sequences; parts differ by one at most."""
        ends = [sequences * r // self.size for r in (self.rank, self.rank + 1)]
        return slice(*ends)

    def passes(self, sequences: int, most: int) -> list[range]:
        """This worker's part of `sequences`, cut into forward passes of at most `most`. Every worker makes equally many
        passes, since each is a meeting (fully_shard gathers weights there); so one may be empty."""
        mine, largest = self.share(sequences), -(-sequences // self.size)
        parts = np.array_split(range(mine.start, mine.stop), -(-largest // most))
        return [range(int(part[0]), int(part[-1]) + 1) if len(part) else range(0) for part in parts]

    @contextmanager
    def accumulate(self, model: Transformer, last: bool) -> Iterator[None]:
        """Around one micro-batch: gradients are exchanged once a step, with the last of them."""
        if self.kind == "fsdp" and self.size > 1:
            cast(Any, model).set_requires_gradient_sync(last)
            yield
        elif self.size > 1 and not last:
            with self._wrapped.no_sync():
                yield
        else:
            yield

    def sum(self, value: Tensor) -> Tensor:
        """Over the workers."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def least(self, value: int, device: torch.device) -> int:
        """Over the workers."""
        if self.size == 1:
            return value
        held = torch.tensor([value], device=device)
        dist.all_reduce(held, dist.ReduceOp.MIN)
        return int(held.item())

    def agree(self, decision: bool, device: torch.device) -> bool:
        """The first worker's decision, for everyone: clocks differ."""
        if self.size == 1:
            return decision
        value = torch.tensor([float(decision)], device=device)
        dist.broadcast(value, 0)
        return bool(value.item())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every worker must ask for it."""
    return cast(Any, tensor).full_tensor() if _sharded(tensor) else tensor


def like(tensor: Tensor, value: Tensor) -> Tensor:
    """`value`, which is whole, on the device and in the shares of `tensor`."""
    value = value.to(tensor.device)
    if not _sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, cast(Any, tensor).device_mesh, cast(Any, tensor).placements)


def _sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, without importing them."""
    return hasattr(tensor, "full_tensor")
