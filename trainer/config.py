"""What one training run is: frozen dataclasses, readable without torch.

D is `RunConfig.tokens`, the batch is in tokens, `lr` is the peak learning rate.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from trainer import families, typed
from trainer.errors import UserError
from trainer.modelconfig import ModelConfig as ModelConfig
from trainer.ranges import RUN, check_ranges
from trainer.typed import from_dict as from_dict
from trainer.typed import from_json as from_json
from trainer.typed import later
from trainer.typed import to_dict as to_dict

T = TypeVar("T")
Schedule = Literal["cosine", "linear", "constant", "wsd"]
Parametrisation = Literal["sp", "mup", "completep"]


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
    pack: Literal["stream", "documents", "rows"] = later("stream")
    """stream: sequences are cut from documents end to end; documents: a sequence is the beginning of one, padded where
    it is short, without loss on the padding; rows: the corpus is a folder of rows that hpt.finetune packed."""

    def __post_init__(self) -> None:
        check_ranges(self, RUN, "data.")
        if self.pack == "documents" and self.mask_documents:
            raise UserError(
                "data.mask_documents=True parts several documents of a sequence, and data.pack=documents puts one in "
                "each: use one of the two."
            )


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
    objective: Literal["next", "masked"] = later("next")
    """next: each token from those before it; masked: some from all others (arXiv 1810.04805)."""
    init_from: str = later("")
    """A checkpoint file whose weights are the start instead of random ones: of a fine-tuning."""
    mask_rate: float = later(0.15)
    """Share of the tokens that the masked objective hides and predicts; more can be better (arXiv 2202.08005)."""
    mask_shares: tuple[float, float] = later((0.8, 0.1))
    """Of these, the shares that become the mask token and another token at random; the rest stays as it is."""

    def __post_init__(self) -> None:
        check_ranges(self, RUN)
        self._check_objective()
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

    def _check_objective(self) -> None:
        if self.objective == "masked" and self.model.causal:
            raise UserError("objective=masked needs a model that sees both ways: set model.causal=False as well.")
        if self.objective == "next" and not self.model.causal:
            raise UserError(
                "model.causal=False sees the very token that objective=next predicts: set objective=masked as well."
            )
        if sum(self.mask_shares) > 1 + 1e-9:
            one, other = self.mask_shares
            raise UserError(f"mask_shares={one:g},{other:g} are parts of the hidden tokens and sum to more than 1.")
        if self.parametrisation != "sp" and not self.model.scaled_attention:
            raise UserError(
                f"parametrisation={self.parametrisation} divides attention by the size of a head, and "
                "model.scaled_attention=False by nothing: use parametrisation=sp or model.scaled_attention=True."
            )
        if self.parametrisation == "completep" and self.model.norm_place == "post":
            raise UserError(
                "parametrisation=completep weighs what a block adds to the stream, and model.norm_place=post takes the "
                "weight away: use model.norm_place=pre, or parametrisation=mup."
            )

    @property
    def ragged(self) -> bool:
        """Sequences may have different numbers of tokens to predict."""
        return self.objective == "masked" or self.data.pack != "stream"

    @property
    def predicted(self) -> float:
        """Share of the tokens of a sequence that the output head sees (padding counted as seen)."""
        return self.mask_rate if self.objective == "masked" else 1.0

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole schedule."""
        return self.steps_at(self.tokens)

    def steps_at(self, tokens: float) -> int:
        """Optimiser steps that `tokens` are: rounded, at least one."""
        return max(1, round(tokens / self.batch))

    def shaped(self, depth: int, width: int, heads: int) -> RunConfig:
        """The same run with a smaller or larger model of the same family; ffn, kv_heads, qk_dim and v_dim keep their
        ratios."""
        old = self.model
        size = width / heads / old.head_dim
        qk, v = (d and max(2, 2 * round(d * size / 2)) for d in (old.qk_dim, old.v_dim))
        ffn = None if old.ffn is None else max(1, round(old.ffn * width / old.width))
        kv = None if old.kv_heads is None else max(1, heads * old.kv_heads // old.heads)
        shape = replace(old, depth=depth, width=width, heads=heads, ffn=ffn, kv_heads=kv, qk_dim=qk, v_dim=v)
        return replace(self, model=shape)


def knobs(run: RunConfig) -> dict[str, Any]:
    """What a run sets beyond what GPT-2 and LLaMA need, by dotted field."""
    found = dict[str, Any]()
    for prefix, config in (("", run), ("model.", run.model), ("data.", run.data)):
        later = [field for field in fields(config) if field.metadata.get("later")]
        values = {field.name: getattr(config, field.name) for field in later}
        found |= {f"{prefix}{f.name}": values[f.name] for f in later if values[f.name] != f.default}
    return found


def override(config: T, assignments: Iterable[str]) -> T:
    """trainer.typed.override; of a run, `family=NAME` stands for all settings of that row of trainer.families."""
    given = list[str]()
    for assignment in assignments:
        key, _, name = assignment.partition("=")
        if key.strip() == "family" and isinstance(config, RunConfig):
            given += [f"{field}={written(value)}" for field, value in families.settings(name.strip()).items()]
        else:
            given.append(assignment)
    return typed.override(config, given)


def written(value: Any) -> str:
    """A value as `override` reads it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
