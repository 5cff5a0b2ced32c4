"""A decoder transformer whose architecture is configuration: GPT-2 and LLaMA are two settings of it.

Shapes: B sequences, T tokens, C width, H heads, K key/value heads, E head size, V vocabulary.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.architecture.loss import linear_cross_entropy
from trainer.architecture.parametrisation import Forward, Role, forward_scale, scale
from trainer.config import ModelConfig, RunConfig

# On a CPU the bf16 attention kernel is up to 4 x slower than the fp32 one for short contexts (128 x 32: 22 ms
# against 6 ms for 64 heads forward and backward), and faster from about 512 x 64 on.
FP32_ATTENTION = 256


def make_norm(model: ModelConfig) -> nn.Module:
    if model.norm == "rmsnorm":
        return nn.RMSNorm(model.width, eps=model.norm_eps)
    return nn.LayerNorm(model.width, eps=model.norm_eps, bias=model.bias)


class LayerCache:
    """Keys and values [B, K, T, E] of one layer, room for a whole context."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.k, self.v, self.length = torch.zeros(shape, device=device), torch.zeros(shape, device=device), 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v; returns all of both so far."""
        end = self.length + k.shape[2]
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end].to(k.dtype), self.v[:, :, :end].to(v.dtype)


class KVCache:
    """Of all layers, for generating `batch` texts at a time."""

    def __init__(self, model: ModelConfig, batch: int, device: torch.device) -> None:
        shape = (batch, model.n_kv_heads, model.context, model.head_dim)
        self.layers = [LayerCache(shape, device) for _ in range(model.depth)]

    @property
    def length(self) -> int:
        return self.layers[0].length


class Attention(nn.Module):
    """Causal self-attention with grouped key/value heads."""

    def __init__(self, model: ModelConfig, forward: Forward) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = model.heads, model.n_kv_heads, model.head_dim
        self.scale = forward.attention
        self.qkv = nn.Linear(model.width, (model.heads + 2 * self.kv_heads) * self.head_dim, bias=model.bias)
        self.out = nn.Linear(model.width, model.width, bias=model.bias)

    def forward(self, x: Tensor, rope: Tensor | None, mask: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        batch, time, width = x.shape
        heads = self.qkv(x).view(batch, time, self.heads + 2 * self.kv_heads, self.head_dim).transpose(1, 2)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)  # B H|K T E
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        causal = mask is None and time > 1
        if cache is not None:
            k, v = cache.extend(k, v)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        fp32 = x.device.type == "cpu" and time <= FP32_ATTENTION
        if fp32:
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast(x.device.type, enabled=False) if fp32 else nullcontext():
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale)
        return self.out(y.transpose(1, 2).reshape(batch, time, width))


class FeedForward(nn.Module):
    """GELU (tanh form, as GPT-2) or SwiGLU (arXiv 2002.05202)."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(model.width, model.hidden, bias=model.bias)
        self.gate = nn.Linear(model.width, model.hidden, bias=model.bias) if model.activation == "swiglu" else None
        self.down = nn.Linear(model.hidden, model.width, bias=model.bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, model: ModelConfig, forward: Forward) -> None:
        super().__init__()
        self.norm1, self.attention = make_norm(model), Attention(model, forward)
        self.norm2, self.feed_forward = make_norm(model), FeedForward(model)
        self.residual = forward.residual

    def forward(self, x: Tensor, rope: Tensor | None, mask: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        x = torch.add(x, self.attention(self.norm1(x), rope, mask, cache), alpha=self.residual)
        return torch.add(x, self.feed_forward(self.norm2(x)), alpha=self.residual)


class Transformer(nn.Module):
    """`run` gives architecture and parametrisation; weights are initialised from `run.seed` alone."""

    rope: Tensor

    def __init__(self, run: RunConfig) -> None:
        super().__init__()
        model = run.model
        self.config, self.scales = model, forward_scale(run)
        self.embedding = nn.Embedding(model.vocabulary, model.width)
        self.positions = nn.Embedding(model.context, model.width) if model.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(model, self.scales) for _ in range(model.depth))
        self.norm = make_norm(model)
        self.head = None if model.tied else nn.Linear(model.width, model.vocabulary, bias=False)
        self.register_buffer("rope", rope_table(model), persistent=False)
        self._initialise(run)

    def _initialise(self, run: RunConfig) -> None:
        generator = torch.Generator().manual_seed(run.seed)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.ones_(parameter)
            else:
                nn.init.normal_(parameter, std=scale(run, role(name, parameter)).std, generator=generator)

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """tokens [B, T] -> logits [B, T, V]. `documents` [B, T] numbers the document of each token;
        given, attention stays inside a document."""
        return F.linear(self.features(tokens, documents), self.head_weight) * self.scales.logits

    def loss(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Mean cross-entropy, nats a token; summed in fp32 whatever the autocast."""
        x = self.features(tokens, documents).flatten(0, 1)
        return linear_cross_entropy(x, self.head_weight, targets.flatten(), self.scales.logits)

    @property
    def head_weight(self) -> Tensor:
        return self.embedding.weight if self.head is None else self.head.weight

    def features(self, tokens: Tensor, documents: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """tokens [B, T] -> normalised residual stream [B, T, C].

        With a cache, the tokens follow those it has seen: any number into an empty one, then one at a time.
        """
        start = cache.length if cache else 0
        place = slice(start, start + tokens.shape[1])
        x, rope = self.embedding(tokens), None
        if self.positions is not None:
            x = x + self.positions.weight[place]
        else:
            rope = self.rope[:, place]
        mask = None if documents is None else document_mask(documents)
        for i, block in enumerate(self.blocks):
            x = block(x, rope, mask, cache.layers[i] if cache else None)
        return self.norm(x)


def role(name: str, parameter: Tensor) -> Role:
    """What the parameter called `name` does; see trainer.architecture.parametrisation."""
    if name.startswith(("embedding", "positions")):
        return "embedding"
    if name.startswith("head"):
        return "head"
    if name.startswith("norm"):
        return "final_norm"
    if parameter.dim() < 2:
        return "vector"
    return "residual" if name.endswith(("attention.out.weight", "feed_forward.down.weight")) else "hidden"


def rope_table(model: ModelConfig) -> Tensor:
    """cos and sin of the rotary angles [2, T, E] (arXiv 2104.09864, halves paired as in LLaMA's published weights)."""
    if model.positions != "rope":
        return torch.empty(0)
    frequency = model.rope_base ** (-torch.arange(0, model.head_dim, 2) / model.head_dim)
    angle = torch.outer(torch.arange(model.context), frequency).repeat(1, 2)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotary embedding of x [B, H, T, E]."""
    cos, sin = rope.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def document_mask(documents: Tensor) -> Tensor:
    """[B, T] document numbers -> [B, 1, T, T], True where a query may look."""
    time = documents.shape[1]
    causal = torch.ones(time, time, dtype=torch.bool, device=documents.device).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]
