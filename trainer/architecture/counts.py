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
    width = model.width
    norm = width * (2 if model.norm == "layernorm" and model.bias else 1)
    kv = model.n_kv_heads * model.head_dim
    matrices = 2 * width * width + 2 * width * kv + (2 if model.activation == "gelu" else 3) * width * model.hidden
    biases = (2 * width + 2 * kv + width + model.hidden * (1 if model.activation == "gelu" else 2)) if model.bias else 0
    return Parameters(
        embedding=model.vocabulary * width,
        positions=model.context * width if model.positions == "learned" else 0,
        blocks=model.depth * (matrices + biases + 2 * norm),
        final_norm=norm,
        head=0 if model.tied else model.vocabulary * width,
    )


def flops_per_token(model: ModelConfig) -> int:
    """Training FLOPs a token: 3 x the forward pass's matrix products (a multiply-add is two).

    Attention is counted over the whole context square, as PaLM (arXiv 2204.02311, appendix B) and
    torch's FlopCounterMode do, although a causal kernel may skip half of it.
    """
    width, kv = model.width, model.n_kv_heads * model.head_dim
    block = 2 * width * width + 2 * width * kv + (2 if model.activation == "gelu" else 3) * width * model.hidden
    matrices = model.depth * block + width * model.vocabulary
    return 3 * (2 * matrices + 4 * model.depth * width * model.context)


def run_flops(run: RunConfig, tokens: float | None = None) -> float:
    """FLOPs of training `run` on `tokens` (default: the whole run), evaluations not counted."""
    return float(flops_per_token(run.model)) * (run.steps * run.batch if tokens is None else tokens)


def evaluation_flops(run: RunConfig) -> float:
    """FLOPs of one pass over the held-out tokens (forward only)."""
    return flops_per_token(run.model) / 3 * run.data.val_tokens
