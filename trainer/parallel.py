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

from trainer.architecture.model import Transformer, rope_table
from trainer.config import RunConfig
from trainer.devices import use_bf16

LossFunction = Callable[..., Tensor]
"""(tokens, targets, documents) -> mean loss of these sequences."""


class _Loss(nn.Module):
    """DistributedDataParallel synchronises what its forward touches, and a Transformer's forward gives logits."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        return self.model.loss(tokens, targets, documents)


class _Empty(Transformer):
    """A Transformer whose weights nobody has drawn yet."""

    def _initialise(self, run: RunConfig) -> None:
        pass


@dataclass
class _Filling:
    """Stands for a sharded model while a Transformer initialises it: every weight is whole while it is drawn."""

    model: Transformer

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self.model.named_parameters():
            value = torch.empty(parameter.shape)
            yield name, value
            with torch.no_grad():
                parameter.copy_(like(parameter, value))


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

    def build(self, run: RunConfig, device: torch.device) -> Transformer:
        """The model with its initial weights, on the device. Sharded, it is laid out without memory and each weight is
        drawn whole, in main memory, one by one: no device and no worker ever holds all of it. Both draw the same."""
        if self.kind != "fsdp" or not dist.is_initialized():
            return Transformer(run).to(device)
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        with torch.device("meta"):
            model = _Empty(run)
        # What autocast would round anyway is rounded before it is gathered, which halves what is sent.
        half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for block in model.blocks:
            fully_shard(block, mp_policy=half if use_bf16(run, device) else MixedPrecisionPolicy())
        fully_shard(model)
        register_fsdp_forward_method(model, "loss")
        model.to_empty(device=device)
        model.rope = rope_table(run.model).to(device)
        Transformer._initialise(cast(Any, _Filling(model)), run)
        return model

    def give_back(self, model: Transformer) -> None:
        """What a validation has gathered and keeps for the next pass: while it is there, parameters are not those that
        the optimiser knows, and their moments would not be found."""
        if self.kind == "fsdp" and self.size > 1:
            cast(Any, model).reshard()

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
        return bool(self.first(int(decision), device))

    def first(self, value: int, device: torch.device) -> int:
        """The first worker's number, for everyone."""
        if self.size == 1:
            return value
        held = torch.tensor([value], device=device)
        dist.broadcast(held, 0)
        return int(held.item())


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every worker must ask for it."""
    return cast(Any, tensor).full_tensor() if _sharded(tensor) else tensor


def like(tensor: Tensor, value: Tensor) -> Tensor:
    """`value`, which is whole, on the device and in the shares of `tensor`."""
    value = value.to(tensor.device)
    if not _sharded(tensor):
        return value
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = cast(Any, tensor).device_mesh, cast(Any, tensor).placements
    return distribute_tensor(value, mesh, placements, src_data_rank=None)  # all have it: nothing is sent


def _sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, without importing them."""
    return hasattr(tensor, "full_tensor")
