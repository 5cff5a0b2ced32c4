"""What one training run is: frozen dataclasses, readable without torch.

D is `RunConfig.tokens`, the batch is in tokens, `lr` is the peak learning rate.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from trainer.errors import UserError

T = TypeVar("T")
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
        for name in ("depth", "width", "heads", "context", "vocabulary"):
            _positive(f"model.{name}", getattr(self, name))
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
        for name in ("tokens", "batch"):
            _positive(name, getattr(self, name))
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UserError(f"lr={self.lr} must be a positive number.")
        if self.batch % self.model.context:
            raise UserError(
                f"batch={self.batch} tokens is not a multiple of the context of {self.model.context}: "
                f"use {max(1, round(self.batch / self.model.context)) * self.model.context}."
            )
        for name, low, high in (
            ("cooldown", 0, 1),
            ("final_fraction", 0, 1),
            ("weight_decay", 0, 1e3),
            ("clip", 0, 1e9),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)} must lie between {low} and {high:g}.")
        if self.warmup < 0 or self.warmup > self.tokens:
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


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values."""
    return dataclasses.asdict(config)


def from_dict(kind: type[T], values: dict[str, Any]) -> T:
    """The dataclass `kind` from plain JSON values; unknown fields are a UserError."""
    hints = typing.get_type_hints(kind)
    fields = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - fields):
        raise UserError(f"{kind.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(fields))}.")
    return kind(**{name: _revive(hints[name], value) for name, value in values.items()})


def override(config: T, assignments: typing.Iterable[str]) -> T:
    """`config` with fields set from `KEY=VALUE`; KEY may be dotted (`model.depth=4`). Checked when all are set."""
    values = to_dict(config)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment!r} is not of the form KEY=VALUE, such as model.depth=4.")
        *path, name = key.strip().split(".")
        kind, place = type(config), values
        for part in path:
            kind, place = _hint(kind, part, assignment), place[part]
        place[name] = _parse(_hint(kind, name, assignment), text.strip(), assignment)
    return from_dict(type(config), values)


def _hint(kind: Any, name: str, where: str) -> Any:
    hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
    if name not in hints:
        known = ", ".join(sorted(hints))
        raise UserError(f"--set {where}: {getattr(kind, '__name__', kind)} has no field {name!r}; it has {known}.")
    return hints[name]


def _parse(hint: Any, text: str, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if text.lower() == "none":
            return None
        return _parse(next(a for a in arguments if a is not type(None)), text, where)
    if origin is Literal:
        if text not in arguments:
            raise UserError(f"--set {where}: choose from {', '.join(map(str, arguments))}.")
        return text
    if origin is tuple:
        return tuple(_parse(a, part, where) for a, part in zip(arguments, text.split(","), strict=True))
    try:
        if hint is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if hint is int:
            value = float(text)  # so that 2.5e9 is a number of tokens
            if value != int(value):
                raise ValueError
            return int(value)
        return hint(text)
    except (ValueError, KeyError):
        raise UserError(f"--set {where}: {text!r} is not of type {getattr(hint, '__name__', hint)}.") from None


def _revive(hint: Any, value: Any) -> Any:
    if isinstance(value, dict) and dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value)
    return tuple(_revive(Any, item) for item in value) if isinstance(value, list) else value


def _positive(name: str, value: float) -> None:
    if value <= 0:
        raise UserError(f"{name}={value} must be positive.")


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, min(n, 128) + 1) if n % d == 0)
