"""Parameters and FLOPs of a model, exactly; tests compare both with the instantiated model."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import ModelConfig, RunConfig


@dataclass(frozen=True)
class Parameters:
    """Trainable parameters by part; the parts add up to `total`."""

    embedding: int
    positions: int
    blocks: int
    final_norm: int
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.positions + self.blocks + self.final_norm + self.head

    @property
    def non_embedding(self) -> int:
        """N as Kaplan et al. (arXiv 2001.08361) and Step Law count: without embedding, positions and head."""
        return self.blocks + self.final_norm


def parameters(model: ModelConfig) -> Parameters:
    width, bias = model.width, int(model.bias)
    norm = width * (2 if model.norm == "layernorm" and model.bias else 1)
    transform = width * width + bias * width + norm if model.head_transform else 0
    head = transform + (model.vocabulary if model.head_bias else 0)
    return Parameters(
        embedding=model.vocabulary * width + (norm if model.embedding_norm else 0),
        positions=model.context * width if model.positions == "learned" else 0,
        blocks=model.depth * (sum(_matrices(model)) + _vectors(model) + len(model.layout) * norm),
        final_norm=norm if model.norm_place == "pre" else 0,
        head=head if model.tied else head + model.vocabulary * width,
    )


def _matrices(model: ModelConfig) -> tuple[int, int]:
    """Weights of the matrices of a block: of its attention and of its feed-forward parts."""
    width, hidden = model.width, model.hidden
    queries = (model.heads + model.n_kv_heads) * model.query_dim
    values = (model.heads + model.n_kv_heads) * model.value_dim
    feed_forward = (3 if model.gated else 2) * width * hidden + (model.ffn_layers - 1) * hidden * hidden
    return model.layout.count("a") * width * (queries + values), model.layout.count("f") * feed_forward


def _vectors(model: ModelConfig) -> int:
    """Biases of a block and weights of its norms of queries and keys."""
    qkv = (model.heads + model.n_kv_heads) * model.query_dim + model.n_kv_heads * model.value_dim
    attention = int(model.has_qkv_bias) * qkv + int(model.bias) * model.width + 2 * int(model.qk_norm) * model.query_dim
    hidden = (2 if model.gated else model.ffn_layers) * model.hidden
    feed_forward = int(model.bias) * (hidden + model.width)
    return model.layout.count("a") * attention + model.layout.count("f") * feed_forward


def flops_per_token(model: ModelConfig, predicted: float = 1.0) -> int:
    """Training FLOPs a token: 3 x the forward pass's matrix products (a multiply-add is two).

    Attention is counted over the whole context square, as PaLM (arXiv 2204.02311, appendix B) and
    torch's FlopCounterMode do, although a causal kernel may skip half of it; of a window that is computed by chunks,
    what the chunks hold. predicted: share of the tokens that the output head sees.
    """
    head = model.width * model.vocabulary + (model.width * model.width if model.head_transform else 0)
    matrices = model.depth * sum(_matrices(model))
    attention = 2 * model.heads * (model.query_dim + model.value_dim) * model.layout.count("a")
    pairs = sum(_pairs(model, model.window(i)) for i in range(model.depth))
    if predicted == 1.0:
        matrices += head
        extra = 0
    else:
        extra = round(3 * 2 * predicted * head)
    return 3 * 2 * matrices + round(3 * attention * pairs / model.context) + extra


def _pairs(model: ModelConfig, window: int) -> int:
    """Pairs of a query and a key in one sequence that are computed."""
    context = model.context
    return 2 * context * window - window * window if banded(model, window, context) else context * context


def banded(model: ModelConfig, window: int, time: int) -> bool:
    """Whether a window over `time` tokens is computed by chunks (trainer.architecture.attention.local_attention), which
    costs less than the whole square."""
    return model.positions != "alibi" and window > 0 and time % window == 0 and time > 2 * window


def run_flops(run: RunConfig, tokens: float | None = None) -> float:
    """FLOPs of training `run` on `tokens` (default: the whole run), evaluations not counted."""
    return float(flops_per_token(run.model, run.predicted)) * (run.steps * run.batch if tokens is None else tokens)


def evaluation_flops(run: RunConfig) -> float:
    """FLOPs of one pass over the held-out tokens (forward only)."""
    return flops_per_token(run.model, run.predicted) / 3 * run.data.val_tokens
