"""What one model is: a frozen dataclass, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.errors import UserError
from trainer.ranges import RUN, check_ranges
from trainer.typed import later


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A transformer; the defaults are GPT-2's. Rows of settings that make other families: trainer.families."""

    depth: int
    """Transformer blocks."""
    width: int
    """Channels of the residual stream."""
    heads: int
    """Query heads; must divide the width."""
    kv_heads: int | None = None
    """Key/value heads (grouped-query attention); None: as many as heads."""
    ffn: int | None = None
    """Hidden channels of the feed-forward part; None: 4 x width, with a gate 8/3 x width rounded up to 32."""
    context: int = 1024
    """Tokens a sequence."""
    vocabulary: int = 50304
    """Rows of the embedding; may be padded beyond the tokenizer's."""
    positions: Literal["learned", "rope", "alibi", "none"] = "learned"
    """rope: arXiv 2104.09864; alibi: a penalty that grows with distance, arXiv 2108.12409; none: arXiv 2305.19466."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    activation: Literal["gelu", "swiglu", "gelu_exact", "relu", "geglu"] = "gelu"
    """gelu: the tanh form, as in GPT-2; gelu_exact: BERT's; swiglu and geglu have a gate (arXiv 2002.05202)."""
    bias: bool = True
    """Biases in linear layers and LayerNorm (as GPT-2 has; LLaMA has none)."""
    tied: bool = True
    """Share embedding and output head."""
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    causal: bool = later(True)
    """A token sees itself and those before it; False: all (BERT, arXiv 1810.04805), for masked language modelling."""
    layout: str = later("af")
    """Parts of a block in their order, a attention and f feed-forward: fa, aff ... (sandwiches: arXiv 1911.03864)."""
    norm_place: Literal["pre", "post"] = later("pre")
    """Before each part (GPT-2), with one more at the end; or after it and its residual sum (Vaswani et al. 2017)."""
    parallel: bool = later(False)
    """All parts of a block read the same input, each through its own norm (GPT-NeoX, arXiv 2204.06745)."""
    qk_dim: int | None = later(None)
    """Channels of a head's queries and keys; None: width / heads."""
    v_dim: int | None = later(None)
    """Channels of a head's values; None: width / heads (Qwen-3 and Gemma have more)."""
    qkv_bias: bool | None = later(None)
    """Biases of queries, keys and values; None: as `bias` (GPT-Neo has none of these and all others)."""
    qk_norm: bool = later(False)
    """RMSNorm of every head's queries and keys, before rope (arXiv 2302.05442, Qwen-3)."""
    scaled_attention: bool = later(True)
    """Queries times keys are divided by the root of their channels; GPT-Neo's are not."""
    windows: tuple[int, ...] = later((0,))
    """Of attention, repeated over the blocks: a token sees itself and window - 1 before it; 0: all (GPT-Neo: 0,256)."""
    ffn_layers: int = later(1)
    """Hidden layers of a feed-forward part; 2 puts one of hidden x hidden between."""
    embedding_norm: bool = later(False)
    """A norm of the sum of token and position embeddings (BERT)."""
    head_transform: bool = later(False)
    """A layer of width x width, activation and norm before the output head (BERT)."""
    head_bias: bool = later(False)
    """A bias a token on the logits (BERT)."""
    logit_cap: float = later(0.0)
    """Logits are cap x tanh(logits / cap) (Gemma 2, arXiv 2408.00118); 0: as they are."""

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
        if self.positions == "rope" and self.query_dim % 2:
            what = "width/heads" if self.qk_dim is None else "model.qk_dim"
            mend = "model.heads" if self.qk_dim is None else "it"
            raise UserError(f"rope needs an even head size, and {what} is {self.query_dim}: change {mend}.")
        for refused, sentence in self._contradictions():
            if refused:
                raise UserError(sentence)

    def _contradictions(self) -> tuple[tuple[bool, str], ...]:
        """(whether it is so, what to say)."""
        return (
            (
                set(self.layout) != {"a", "f"} or len(self.layout) > 16,
                f"model.layout={self.layout} must hold at least one a (attention) and one f (feed-forward), at most 16 "
                "letters in all, such as af, fa or aff.",
            ),
            (
                not self.windows,
                "model.windows is empty: give a window a block, repeated over the blocks; 0 sees everything.",
            ),
            (
                any(self.windows) and not self.causal,
                f"model.windows={','.join(map(str, self.windows))} looks back from a token, and model.causal=False has "
                "it look both ways: use model.windows=0.",
            ),
            (
                self.parallel and self.norm_place == "post",
                "model.parallel=True adds all parts to one stream, and model.norm_place=post normalises it after each: "
                "use model.norm_place=pre.",
            ),
            (
                self.ffn_layers > 1 and self.gated,
                f"model.ffn_layers={self.ffn_layers} stacks plain layers, and {self.activation} has a gate: use "
                "model.activation=gelu, gelu_exact or relu.",
            ),
            (
                self.positions == "none" and not self.causal,
                "model.positions=none with model.causal=False cannot tell the order of tokens: use learned, rope or "
                "alibi.",
            ),
        )

    @property
    def n_kv_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def query_dim(self) -> int:
        """Channels of a head's queries and keys."""
        return self.qk_dim or self.head_dim

    @property
    def value_dim(self) -> int:
        """Channels of a head's values."""
        return self.v_dim or self.head_dim

    @property
    def gated(self) -> bool:
        return self.activation in ("swiglu", "geglu")

    @property
    def has_qkv_bias(self) -> bool:
        return self.bias if self.qkv_bias is None else self.qkv_bias

    def window(self, block: int) -> int:
        """Of a block's attention; 0: it sees the whole context."""
        window = self.windows[block % len(self.windows)]
        return window if window < self.context else 0

    @property
    def hidden(self) -> int:
        """Channels inside the feed-forward part."""
        if self.ffn:
            return self.ffn
        return -(-8 * self.width // 3 // 32) * 32 if self.gated else 4 * self.width


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, min(n, 128) + 1) if n % d == 0)
