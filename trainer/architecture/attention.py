"""Attention, and who sees whom: causal or not, windows, documents, ALiBi, rope, a cache for generation.

Shapes: B sequences, T tokens, C width, H heads, K key/value heads, E channels of a head (queries and keys, or values).
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.architecture.counts import banded
from trainer.architecture.parametrisation import Forward
from trainer.config import ModelConfig

# On a CPU the bf16 attention kernel is up to 4 x slower than the fp32 one for short contexts (128 x 32: 22 ms
# against 6 ms for 64 heads forward and backward), and faster from about 512 x 64 on.
FP32_ATTENTION = 256


class LayerCache:
    """Keys and values [B, K, T, E] of one layer, room for a whole context."""

    def __init__(self, model: ModelConfig, batch: int, device: torch.device) -> None:
        room = (batch, model.n_kv_heads, model.context)
        self.k = torch.zeros((*room, model.query_dim), device=device)
        self.v, self.length = torch.zeros((*room, model.value_dim), device=device), 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v; returns all of both so far."""
        end = self.length + k.shape[2]
        self.k[:, :, self.length : end], self.v[:, :, self.length : end] = k, v
        self.length = end
        return self.k[:, :, :end].to(k.dtype), self.v[:, :, :end].to(v.dtype)


class KVCache:
    """Of all layers of a block, of all blocks, for generating `batch` texts at a time."""

    def __init__(self, model: ModelConfig, batch: int, device: torch.device) -> None:
        count = model.depth * model.layout.count("a")
        self.layers = [LayerCache(model, batch, device) for _ in range(count)]

    @property
    def length(self) -> int:
        return self.layers[0].length


class Attention(nn.Module):
    """Self-attention with grouped key/value heads. `window`: how far back it sees; 0: everything."""

    def __init__(self, model: ModelConfig, forward: Forward, window: int = 0) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.window = model.heads, model.n_kv_heads, window
        self.qk_dim, self.v_dim, self.scale = model.query_dim, model.value_dim, forward.attention
        self.model, self.causal = model, model.causal
        queries, keys = model.heads * model.query_dim, model.n_kv_heads * model.query_dim
        self.sizes = [queries, keys, model.n_kv_heads * model.value_dim]
        self.qkv = nn.Linear(model.width, sum(self.sizes), bias=model.has_qkv_bias)
        self.q_norm, self.k_norm = (
            nn.RMSNorm(model.query_dim, eps=model.norm_eps) if model.qk_norm else None for _ in range(2)
        )
        self.out = nn.Linear(model.heads * model.value_dim, model.width, bias=model.bias)

    def forward(self, x: Tensor, rope: Tensor | None, mask: Tensor | None, cache: LayerCache | None = None) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = self._heads(self.qkv(x))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q.float()).to(v.dtype), self.k_norm(k.float()).to(v.dtype)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if cache is not None:
            k, v = cache.extend(k, v)
        if self.kv_heads != self.heads:
            k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        fp32 = x.device.type == "cpu" and time <= FP32_ATTENTION
        if fp32:
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast(x.device.type, enabled=False) if fp32 else nullcontext():
            if mask is None and cache is None and self.window and banded(self.model, self.window, time):
                y = local_attention(q, k, v, self.window, self.scale)
            else:
                if mask is not None and mask.is_floating_point():
                    mask = mask.to(q.dtype)
                causal = mask is None and self.causal and time > 1
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale)
        return self.out(y.transpose(1, 2).reshape(batch, time, self.heads * self.v_dim))

    def _heads(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, ...] -> q [B, H, T, E], k and v [B, K, T, E]."""
        if self.qk_dim == self.v_dim:
            heads = qkv.view(*qkv.shape[:2], self.heads + 2 * self.kv_heads, self.qk_dim).transpose(1, 2)
            return heads.split([self.heads, self.kv_heads, self.kv_heads], dim=1)  # type: ignore[return-value]
        parts = zip(qkv.split(self.sizes, dim=-1), (self.qk_dim, self.qk_dim, self.v_dim), strict=True)
        q, k, v = (part.unflatten(-1, (-1, size)).transpose(1, 2) for part, size in parts)
        return q, k, v


def local_attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """Causal attention to `window` tokens, itself included, without a [T, T] mask: chunks of `window` queries see their
    own chunk and the one before, through one mask [window, 2 window]. q, k, v [B, H, T, E], T a multiple of it."""
    chunks = q.shape[2] // window
    first = F.scaled_dot_product_attention(
        q[:, :, :window], k[:, :, :window], v[:, :, :window], is_causal=True, scale=scale
    )
    # The chunks behind the first become further sequences.
    queries = q[:, :, window:].unflatten(2, (chunks - 1, window)).transpose(1, 2).flatten(0, 1)
    keys, values = (
        t.unfold(2, 2 * window, window).permute(0, 2, 1, 4, 3).flatten(0, 1) for t in (k, v)
    )  # B chunks-1 H 2w E
    at, seen = torch.arange(window, device=q.device)[:, None], torch.arange(2 * window, device=q.device)
    rest = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=(seen > at) & (seen <= at + window), scale=scale
    )
    rest = rest.unflatten(0, (q.shape[0], chunks - 1)).transpose(1, 2).flatten(2, 3)
    return torch.cat([first, rest], dim=2)


def attention_mask(
    model: ModelConfig, window: int, start: int, time: int, documents: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which of start + time keys each of the last `time` queries sees: bool [1|B, 1, T, S]; with ALiBi what is added to
    the products of queries and keys [1|B, H, T, S]. None where attention needs none: everything is seen, or everything
    before, or the window by chunks. `documents` [B, T] numbers the document of each token."""
    alibi = model.positions == "alibi"
    plain = not alibi and documents is None
    if plain and (not window or (start == 0 and banded(model, window, time)) or start + time <= window):
        return None
    if documents is not None and start == 0 and model.causal and not window and not alibi:
        return document_mask(documents)
    queries = torch.arange(start, start + time, device=device)[:, None]
    distance = queries - torch.arange(start + time, device=device)  # T S
    seen = torch.ones_like(distance, dtype=torch.bool)
    if model.causal:
        seen &= distance >= 0
    if window:
        seen &= distance < window
    seen = seen[None, None]
    if documents is not None:
        seen = seen & (documents[:, None, :, None] == documents[:, None, None, :])
    if not alibi:
        return seen
    penalty = -slopes(model.heads).to(device)[:, None, None] * distance.abs()
    return penalty[None].masked_fill(~seen, -torch.inf)


def slopes(heads: int) -> Tensor:
    """ALiBi's [H]: 2^(-8 h / H) for h = 1 ... H (arXiv 2108.12409)."""
    return 2.0 ** (-8.0 * torch.arange(1, heads + 1) / heads)


def document_mask(documents: Tensor) -> Tensor:
    """[B, T] document numbers -> [B, 1, T, T], True where a query may look."""
    time = documents.shape[1]
    causal = torch.ones(time, time, dtype=torch.bool, device=documents.device).tril()
    return ((documents[:, :, None] == documents[:, None, :]) & causal)[:, None]


def rope_table(model: ModelConfig) -> Tensor:
    """cos and sin of the rotary angles [2, T, E] (arXiv 2104.09864, halves paired as in LLaMA's published weights)."""
    if model.positions != "rope":
        return torch.empty(0)
    frequency = model.rope_base ** (-torch.arange(0, model.query_dim, 2) / model.query_dim)
    angle = torch.outer(torch.arange(model.context), frequency).repeat(1, 2)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotary embedding of x [B, H, T, E]."""
    cos, sin = rope.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
