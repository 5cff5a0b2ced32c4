"""Attention maps as the model computes them, what each head does, and what each block would predict.

Shapes: A attention parts (one a block, of most models), H heads, T tokens, V vocabulary, C width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.architecture.attention import Attention, attention_mask, rotate
from trainer.architecture.blocks import part_names
from trainer.architecture.model import Transformer


@dataclass(frozen=True)
class Look:
    """Of one text."""

    maps: np.ndarray
    """[A, H, T, T]: how much each token (row) looks at each (column); rows sum to 1."""
    streams: Tensor
    """[L + 1, T, C]: the residual stream before the first block and after each."""


@dataclass(frozen=True)
class Heads:
    """What heads do, on average over texts: [A, H] each."""

    entropy: np.ndarray
    """Of a row of the map, bits: 0 looks at one token, log2(T) at all alike."""
    own: np.ndarray
    """Share of a token's attention that goes to itself."""
    previous: np.ndarray
    """To the token before."""
    first: np.ndarray
    """To the text's first token."""
    similarity: np.ndarray
    """[A x H, A x H] cosine of the maps of two heads."""


def parts(model: Transformer, letter: str) -> list[tuple[int, str, nn.Module]]:
    """(block, name, module) of all parts of a kind: a attention, f feed-forward."""
    return [
        (i, name, getattr(block, name))
        for i, block in enumerate(model.blocks)
        for kind, name in part_names(model.config.layout)
        if kind == letter
    ]


@contextmanager
def hooked(handles: Sequence[Any]) -> Iterator[None]:
    """Hooks that are gone afterwards."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def look(model: Transformer, tokens: Sequence[int]) -> Look:
    """A whole pass over one text of at most the context."""
    maps, streams = list[Tensor](), list[Tensor]()

    def attention(module: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(module, Attention)
        maps.append(weights(module, *given[:3])[0])

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        streams.append(given[0][0])

    def after(module: nn.Module, given: tuple[Any, ...], y: Tensor) -> None:
        streams.append(y[0])

    handles = [part.register_forward_pre_hook(attention) for *_, part in parts(model, "a")]
    handles.append(model.blocks[0].register_forward_pre_hook(before))
    handles += [block.register_forward_hook(after) for block in model.blocks]
    with hooked(handles):
        model.features(torch.tensor([list(tokens)], device=model.embedding.weight.device))
    return Look(torch.stack(maps).float().cpu().numpy(), torch.stack(streams).float())


def weights(module: Attention, x: Tensor, rope: Tensor | None, mask: Tensor | None) -> Tensor:
    """The map [B, H, T, T] of an attention part: softmax of its scaled products, in fp32."""
    q, k, _ = module._heads(module.qkv(x))
    if module.q_norm is not None and module.k_norm is not None:
        q, k = module.q_norm(q.float()), module.k_norm(k.float())
    if rope is not None:
        q, k = rotate(q, rope), rotate(k, rope)
    if module.kv_heads != module.heads:
        k = k.repeat_interleave(module.heads // module.kv_heads, dim=1)
    products = q.float() @ k.float().mT * module.scale
    if mask is None:  # left out where attention needs none: everything is seen, or everything before, or a window
        time = x.shape[1]
        numbers = torch.zeros(1, time, dtype=torch.long, device=x.device)
        mask = attention_mask(module.model, module.window, 0, time, numbers, x.device)
    if mask is not None:
        products = products.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else products + mask
    return products.softmax(-1)


def heads(model: Transformer, texts: Sequence[Sequence[int]]) -> Heads:
    """Averages over texts of at least two tokens; of the first token, which sees only itself, nothing counts."""
    sums: list[Any] = [0.0] * 4
    dots: Any = 0.0
    for tokens in texts:
        maps = look(model, tokens).maps
        rows = maps[:, :, 1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.where(rows > 0, rows * np.log2(rows), 0).sum(-1)
        own = np.diagonal(maps, axis1=2, axis2=3)[..., 1:]
        previous = np.diagonal(maps, offset=-1, axis1=2, axis2=3)
        for i, value in enumerate((entropy, own, previous, rows[..., 0])):
            sums[i] = sums[i] + value.mean(-1)
        flat = rows.reshape(-1, rows.shape[2] * rows.shape[3])
        norm = np.linalg.norm(flat, axis=1, keepdims=True)
        dots = dots + (flat / norm) @ (flat / norm).T
    entropy, own, previous, first = (value / len(texts) for value in sums)
    return Heads(entropy, own, previous, first, dots / len(texts))


@torch.no_grad()
def lens(model: Transformer, streams: Tensor, rows: int, top: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """The logit lens (nostalgebraist 2020): the output head on every block's stream, as if the model ended there.

    streams [L + 1, T, C], of the first `rows` tokens of the vocabulary -> ids and probabilities [L + 1, T, top]. A norm
    behind the last block is applied to all.
    """
    x = streams
    if model.norm is not None:
        x = model.norm(x)
    if model.head_transform is not None:
        x = model.head_transform(x)
    odds, ids = model.logits(x, rows).float().softmax(-1).topk(min(top, rows), -1)
    return ids.cpu().numpy(), odds.cpu().numpy()
