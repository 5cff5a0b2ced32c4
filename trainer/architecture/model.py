"""A transformer whose architecture is configuration: GPT-2, LLaMA, GPT-Neo and BERT are settings of it
(trainer.families). Its parts are beside it: attention, blocks.

Shapes: B sequences, T tokens, C width, V vocabulary.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.architecture.attention import FP32_ATTENTION as FP32_ATTENTION
from trainer.architecture.attention import KVCache as KVCache
from trainer.architecture.attention import attention_mask
from trainer.architecture.attention import document_mask as document_mask
from trainer.architecture.attention import rope_table as rope_table
from trainer.architecture.attention import rotate as rotate
from trainer.architecture.blocks import Block, HeadTransform, make_norm
from trainer.architecture.loss import linear_cross_entropy
from trainer.architecture.parametrisation import Role, forward_scale, scale
from trainer.config import ModelConfig, RunConfig
from trainer.data.masking import NOTHING


class Transformer(nn.Module):
    """`run` gives architecture and parametrisation; weights are initialised from `run.seed` alone."""

    rope: Tensor

    def __init__(self, run: RunConfig) -> None:
        super().__init__()
        model = run.model
        self.config, self.scales, self.ragged = model, forward_scale(run), run.ragged
        self.embedding = nn.Embedding(model.vocabulary, model.width)
        self.positions = nn.Embedding(model.context, model.width) if model.positions == "learned" else None
        self.embedding_norm = make_norm(model) if model.embedding_norm else None
        self.blocks = nn.ModuleList(Block(model, self.scales, model.window(i)) for i in range(model.depth))
        self.norm = make_norm(model) if model.norm_place == "pre" else None
        self.head_transform = HeadTransform(model) if model.head_transform else None
        self.head = None if model.tied else nn.Linear(model.width, model.vocabulary, bias=False)
        self.head_bias = nn.Parameter(torch.zeros(model.vocabulary)) if model.head_bias else None
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
        return self.logits(self.features(tokens, documents))

    def logits(self, features: Tensor, rows: int | None = None) -> Tensor:
        """features [..., C] -> logits [..., V], of the first `rows` tokens of the vocabulary where given."""
        logits = F.linear(features, self.head_weight[:rows]) * self.scales.logits
        if self.head_bias is not None:
            logits = logits + self.head_bias[:rows]
        cap = self.config.logit_cap
        return cap * torch.tanh(logits / cap) if cap else logits

    def loss(self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """Mean cross-entropy, nats a token; summed in fp32 whatever the autocast. A target of NOTHING does not count,
        where sequences may have some (run.ragged); without any target at all it is 0."""
        x, targets = self.features(tokens, documents, targets=targets if self.ragged else None), targets.flatten()
        if self.ragged:
            targets = targets[targets != NOTHING]
        else:
            x = x.flatten(0, 1)
        bias = None if self.head_bias is None else self.head_bias / self.scales.logits
        return linear_cross_entropy(x, self.head_weight, targets, self.scales.logits, bias, self.config.logit_cap)

    @property
    def head_weight(self) -> Tensor:
        return self.embedding.weight if self.head is None else self.head.weight

    def features(
        self,
        tokens: Tensor,
        documents: Tensor | None = None,
        cache: KVCache | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """tokens [B, T] -> what the output head reads [B, T, C]; with targets, only where one is asked for [n, C].

        With a cache, the tokens follow those it has seen: any number into an empty one, then one at a time.
        """
        model, (time, start) = self.config, (tokens.shape[1], cache.length if cache else 0)
        place = slice(start, start + time)
        x, rope = self.embedding(tokens), self.rope[:, place] if model.positions == "rope" else None
        if self.positions is not None:
            x = x + self.positions.weight[place]
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        masks = dict[int, Tensor | None]()
        for i, block in enumerate(self.blocks):
            if (window := model.window(i)) not in masks:
                masks[window] = attention_mask(model, window, start, time, documents, tokens.device)
            x = block(x, rope, masks[window], cache, i * model.layout.count("a"))
        if targets is not None:  # norm and transform of what is asked for alone
            x = x.flatten(0, 1)[(targets != NOTHING).flatten()]
        if self.norm is not None:
            x = self.norm(x)
        return x if self.head_transform is None else self.head_transform(x)


def role(name: str, parameter: Tensor) -> Role:
    """What the parameter called `name` does; see trainer.architecture.parametrisation."""
    if name.startswith("head_transform"):
        return "hidden" if parameter.dim() >= 2 else "final_norm" if ".norm." in name else "vector"
    if name.startswith(("embedding", "positions")):
        return "embedding"
    if name.startswith("head"):
        return "head"
    if name.startswith("norm"):
        return "final_norm"
    if parameter.dim() < 2:
        return "vector"
    return "residual" if WRITES.search(name) else "hidden"


WRITES = re.compile(r"\.(attention\d*\.out|feed_forward\d*\.down)\.")
"""Names of layers that write to the residual stream."""
READS_QUERIES = re.compile(r"\.attention\d*\.qkv\.")


def last_norm(model: ModelConfig) -> str:
    """Beginning of the names of the norm whose output the head reads."""
    if model.head_transform:
        return "head_transform.norm."
    return "norm." if model.norm_place == "pre" else f"blocks.{model.depth - 1}.norm{len(model.layout)}."
