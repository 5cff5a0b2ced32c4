"""Norms, feed-forward parts, and the block that puts parts in their order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.architecture.attention import Attention, KVCache
from trainer.architecture.parametrisation import Forward
from trainer.config import ModelConfig


def make_norm(model: ModelConfig) -> nn.Module:
    if model.norm == "rmsnorm":
        return nn.RMSNorm(model.width, eps=model.norm_eps)
    return nn.LayerNorm(model.width, eps=model.norm_eps, bias=model.bias)


def activate(name: str, x: Tensor) -> Tensor:
    """The activation alone; of a gated part, the gate's."""
    if name == "gelu":
        return F.gelu(x, approximate="tanh")
    if name == "relu":
        return F.relu(x)
    return F.silu(x) if name == "swiglu" else F.gelu(x)


class FeedForward(nn.Module):
    """Plain or gated (arXiv 2002.05202: SwiGLU, GeGLU), of one hidden layer or more."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.activation = model.activation
        self.up = nn.Linear(model.width, model.hidden, bias=model.bias)
        self.gate = nn.Linear(model.width, model.hidden, bias=model.bias) if model.gated else None
        between = [nn.Linear(model.hidden, model.hidden, bias=model.bias) for _ in range(model.ffn_layers - 1)]
        self.between = nn.ModuleList(between)
        self.down = nn.Linear(model.hidden, model.width, bias=model.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(activate(self.activation, self.gate(x)) * self.up(x))
        x = activate(self.activation, self.up(x))
        for layer in self.between:
            x = activate(self.activation, layer(x))
        return self.down(x)


class Block(nn.Module):
    """Parts in the order of model.layout, each with a norm of its own: norm1, attention, norm2, feed_forward; a second
    part of a kind is attention2 or feed_forward2, and so on."""

    def __init__(self, model: ModelConfig, forward: Forward, window: int = 0) -> None:
        super().__init__()
        self.parts = list(part_names(model.layout))
        for number, (letter, name) in enumerate(self.parts, start=1):
            self.add_module(f"norm{number}", make_norm(model))
            self.add_module(name, Attention(model, forward, window) if letter == "a" else FeedForward(model))
        self.residual, self.parallel, self.post = forward.residual, model.parallel, model.norm_place == "post"

    def forward(
        self, x: Tensor, rope: Tensor | None, mask: Tensor | None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        """layer: of the block's first attention in the cache."""
        whole = x
        for number, (letter, name) in enumerate(self.parts, start=1):
            norm, part = getattr(self, f"norm{number}"), getattr(self, name)
            read = whole if self.parallel else x
            read = read if self.post else norm(read)
            if letter == "a":
                y, layer = part(read, rope, mask, cache.layers[layer] if cache else None), layer + 1
            else:
                y = part(read)
            x = torch.add(x, y, alpha=self.residual)
            if self.post:
                x = norm(x)
        return x


def part_names(layout: str) -> list[tuple[str, str]]:
    """(letter, name of the module) of each part of a block."""
    names, seen = [], {"a": 0, "f": 0}
    for letter in layout:
        seen[letter] += 1
        name = {"a": "attention", "f": "feed_forward"}[letter]
        names.append((letter, name if seen[letter] == 1 else f"{name}{seen[letter]}"))
    return names


class HeadTransform(nn.Module):
    """What BERT does to features before its output head: a layer, the activation, a norm."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.activation = model.activation
        self.dense, self.norm = nn.Linear(model.width, model.width, bias=model.bias), make_norm(model)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(activate(self.activation, self.dense(x)))
