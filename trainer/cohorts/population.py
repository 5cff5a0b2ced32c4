"""The forward pass of several models of one shape as one batched program: an explicit population axis.

Shapes as in trainer.architecture.model, and P members. Weights are stacked [P, ...] under the names of `Transformer`;
activations are [P, B T, C]; linear layers are batched products, attention takes the members as further sequences.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.architecture.loss import linear_cross_entropy
from trainer.architecture.model import FP32_ATTENTION, document_mask, rope_table, rotate
from trainer.architecture.parametrisation import forward_scale
from trainer.config import RunConfig, knobs, written


def not_carried(run: RunConfig) -> list[str]:
    """Settings of a run that this forward pass does not know, as NAME=VALUE: all that came after GPT-2 and LLaMA."""
    known = {"positions": ("learned", "rope"), "activation": ("gelu", "swiglu")}
    odd = {
        f"model.{name}": getattr(run.model, name) for name, few in known.items() if getattr(run.model, name) not in few
    }
    return [f"{name}={written(value)}" for name, value in {**odd, **knobs(run)}.items()]


class PopulationModel:
    """What members share: architecture and parametrisation of `run`. It holds no weights."""

    def __init__(self, run: RunConfig, device: torch.device) -> None:
        self.config, self.scales = run.model, forward_scale(run)
        self.rope = rope_table(run.model).to(device)

    def losses(
        self, weights: Mapping[str, Tensor], tokens: Tensor, targets: Tensor, documents: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy [P] of every member on the same tokens [B, T], nats a token."""
        head = weights["embedding.weight" if self.config.tied else "head.weight"]
        return linear_cross_entropy(
            self.features(weights, tokens, documents), head, targets.flatten(), self.scales.logits
        )

    def features(self, weights: Mapping[str, Tensor], tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """tokens [B, T] -> normalised residual streams [P, B T, C]."""
        batch, time = tokens.shape
        table = weights["embedding.weight"]
        members, vocabulary, width = table.shape
        first = torch.arange(members, device=tokens.device)[:, None] * vocabulary
        x = F.embedding(first + tokens.reshape(1, -1), table.reshape(-1, width))
        rope = None
        if self.config.positions == "learned":
            positions = weights["positions.weight"][:, None, :time]
            x = (x.view(members, batch, time, width) + positions).view(members, -1, width)
        else:
            rope = self.rope[:, :time]
        mask = None if documents is None else document_mask(documents).repeat(members, 1, 1, 1)
        for depth in range(self.config.depth):
            block = f"blocks.{depth}."
            y = self._attention(weights, block, self._norm(weights, block + "norm1", x), time, rope, mask)
            x = torch.add(x, y, alpha=self.scales.residual)
            y = self._feed_forward(weights, block + "feed_forward.", self._norm(weights, block + "norm2", x))
            x = torch.add(x, y, alpha=self.scales.residual)
        return self._norm(weights, "norm", x)

    def _attention(
        self, weights: Mapping[str, Tensor], block: str, x: Tensor, time: int, rope: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        heads, kv, size = self.config.heads, self.config.n_kv_heads, self.config.head_dim
        qkv = linear(weights, block + "attention.qkv", x).view(-1, time, heads + 2 * kv, size).transpose(1, 2)
        q, k, v = qkv.split([heads, kv, kv], dim=1)  # P B, H|K, T, E
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        if kv != heads:
            k, v = (t.repeat_interleave(heads // kv, dim=1) for t in (k, v))
        fp32 = x.device.type == "cpu" and time <= FP32_ATTENTION
        if fp32:
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast(x.device.type, enabled=False) if fp32 else nullcontext():
            y = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scales.attention
            )
        return linear(weights, block + "attention.out", y.transpose(1, 2).reshape(x.shape))

    def _feed_forward(self, weights: Mapping[str, Tensor], block: str, x: Tensor) -> Tensor:
        up = linear(weights, block + "up", x)
        if self.config.activation == "gelu":
            return linear(weights, block + "down", F.gelu(up, approximate="tanh"))
        return linear(weights, block + "down", F.silu(linear(weights, block + "gate", x)) * up)

    def _norm(self, weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
        normalise = F.rms_norm if self.config.norm == "rmsnorm" else F.layer_norm
        y = normalise(x, x.shape[-1:], eps=self.config.norm_eps)
        weight, bias = weights[name + ".weight"][:, None], weights.get(name + ".bias")
        return y * weight if bias is None else torch.addcmul(bias[:, None], y, weight)


def linear(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """x [P, n, in] through each member's layer -> [P, n, out]."""
    weight, bias = weights[name + ".weight"].transpose(1, 2), weights.get(name + ".bias")
    return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias[:, None], x, weight)
