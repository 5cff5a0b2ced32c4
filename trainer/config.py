"""What one training run is: frozen dataclasses, readable without torch.

D is `RunConfig.tokens`, the batch is in tokens, `lr` is the peak learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from trainer.errors import UserError
from trainer.ranges import RUN, check_ranges
from trainer.typed import from_dict as from_dict
from trainer.typed import from_json as from_json
from trainer.typed import override as override
from trainer.typed import to_dict as to_dict

Schedule = Literal["cosine", "linear", "constant", "wsd"]
Parametrisation = Literal["sp", "mup", "completep"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder transformer; the defaults are GPT-2's."""

    depth: int
    """Transformer blocks."""
    width: int
    """Channels of the residual stream."""
    heads: int
    """Query heads; must divide the width."""
    kv_heads: int | None = None
    """Key/value heads (grouped-query attention); None: as many as heads."""
    ffn: int | None = None
    """Hidden channels of the feed-forward part; None: 4 x width (gelu), 8/3 x width rounded up to 32 (swiglu)."""
    context: int = 1024
    """Tokens a sequence."""
    vocabulary: int = 50304
    """Rows of the embedding; may be padded beyond the tokenizer's."""
    positions: Literal["learned", "rope"] = "learned"
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True
    """Biases in linear layers and LayerNorm (as GPT-2 has; LLaMA has none)."""
    tied: bool = True
    """Share embedding and output head."""
    norm_eps: float = 1e-5
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        check_ranges(self, RUN, "model.")
        if self.width % self.heads:
            raise UserError(
                f"model.heads={self.heads} does not divide model.width={self.width}: "
                f"choose heads from {_divisors(self.width)}."
            )
        if self.heads % self.n_kv_heads:
            raise UserError(
                f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}: "
                f"choose kv_heads from {_divisors(self.heads)}."
            )
        if self.positions == "rope" and self.head_dim % 2:
            raise UserError(f"rope needs an even head size, and width/heads is {self.head_dim}: change model.heads.")

    @property
    def n_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def hidden(self) -> int:
        """Channels inside the feed-forward part."""
        if self.ffn:
            return self.ffn
        return 4 * self.width if self.activation == "gelu" else -(-8 * self.width // 3 // 32) * 32


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the tokens come from."""

    corpus: str = "python"
    """`python` (the running interpreter's standard library), a file, folder or glob of .txt/.md/
    .jsonl(.gz/.xz/.zst)/.parquet, or of llm.c token shards *_train_*.bin and *_val_*.bin; or a store's s3://bucket/path."""
    tokenizer: str = "bpe:4096"
    """`bpe:SIZE` trains a byte-level BPE on the corpus; `gpt2`, `cl100k_base`, `o200k_base` are tiktoken's."""
    text_field: str = "text"
    """Field of .jsonl and column of .parquet that holds a document."""
    val: str = ""
    """A file whose documents are held out instead of a twentieth of the corpus, by their hash."""
    val_documents: int = 0
    """So many of the first of them; 0: all."""
    val_tokens: int = 65536
    """Held-out tokens that every evaluation of every trial reads: the same ones."""
    epochs: float = 1.0
    """How often the training tokens may be repeated; a run that needs more is refused."""
    mask_documents: bool = False
    """Keep attention inside a document where several are packed into one sequence."""

    def __post_init__(self) -> None:
        check_ranges(self, RUN, "data.")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. A *target* is a RunConfig whose lr is None."""

    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    tokens: int
    """D: training tokens over which the schedule is laid."""
    batch: int
    """Tokens an optimiser step; a multiple of the context."""
    lr: float | None = None
    """Peak learning rate."""
    schedule: Schedule = "cosine"
    warmup: int = 0
    """Tokens of linear warmup."""
    cooldown: float = 0.2
    """Fraction of D in which wsd decays (linear, arXiv 2405.18392 finds 0.2 enough)."""
    final_fraction: float = 0.0
    """lr at the end of the schedule as a fraction of the peak."""
    weight_decay: float = 0.1
    """Decoupled, multiplied by the lr; on matrices only."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    clip: float = 1.0
    """Largest global gradient norm; 0 switches clipping off."""
    parametrisation: Parametrisation = "sp"
    base_width: int = 64
    """Width (and below, depth) at which muP and CompleteP equal the standard parametrisation."""
    base_depth: int = 2
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the device computes in it (CUDA, CPU with AMX or AVX512-BF16), else fp32."""
    micro_batch: int | None = None
    """Sequences a forward pass; None: the largest that the device is known to hold. Does not change the losses."""
    loss_cap: float | None = None
    """A training loss (mean of the last few steps, once warmup is over) or a final validation loss above this is
    divergence; None: 1.5 x ln(vocabulary), half as bad again as guessing."""
    seed: int = 0
    """Seeds initial weights and data order alike; trials of one search share it (paired differences)."""

    def __post_init__(self) -> None:
        check_ranges(self, RUN)
        if self.batch % self.model.context:
            raise UserError(
                f"batch={self.batch} tokens is not a multiple of the context of {self.model.context}: "
                f"use {max(1, round(self.batch / self.model.context)) * self.model.context}."
            )
        if self.data.val_tokens < self.model.context:
            raise UserError(
                f"data.val_tokens={self.data.val_tokens} is not one sequence of the model's context of "
                f"{self.model.context}: use data.val_tokens={self.model.context} or more."
            )
        if self.warmup > self.tokens:
            raise UserError(f"warmup={self.warmup} tokens must lie between 0 and tokens={self.tokens}.")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole schedule."""
        return self.steps_at(self.tokens)

    def steps_at(self, tokens: float) -> int:
        """Optimiser steps that `tokens` are: rounded, at least one."""
        return max(1, round(tokens / self.batch))

    def shaped(self, depth: int, width: int, heads: int) -> RunConfig:
        """The same run with a smaller or larger model of the same family; ffn and kv_heads keep their ratios."""
        old = self.model
        ffn = None if old.ffn is None else max(1, round(old.ffn * width / old.width))
        kv = None if old.kv_heads is None else max(1, heads * old.kv_heads // old.heads)
        return replace(self, model=replace(old, depth=depth, width=width, heads=heads, ffn=ffn, kv_heads=kv))


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, min(n, 128) + 1) if n % d == 0)
