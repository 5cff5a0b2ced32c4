"""How init, lr, weight decay and epsilon scale with width and depth: standard, muP, CompleteP.

One table, after Yang et al. (arXiv 2203.03466) and CompleteP (arXiv 2505.01618, alpha = 1), for AdamW.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainer.config import RunConfig

Role = Literal["embedding", "hidden", "residual", "vector", "final_norm", "head"]
"""What a parameter does: token and position embedding; matrices inside blocks, `residual` being those that write to the
residual stream; biases and norms inside blocks; the final norm; an untied output head."""

INIT_STD = 0.02  # GPT-2's, at the base width


@dataclass(frozen=True)
class Scale:
    """Multipliers of one parameter group."""

    std: float
    """Standard deviation of the initial weights."""
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0


@dataclass(frozen=True)
class Forward:
    """Multipliers in the forward pass."""

    residual: float
    """On what a block adds to the residual stream."""
    attention: float
    """On query-key products."""
    logits: float


def scale(run: RunConfig, role: Role) -> Scale:
    wide, deep = run.model.width / run.base_width, run.model.depth / run.base_depth
    residual_std = INIT_STD / math.sqrt(len(run.model.layout) * run.model.depth)  # a write to the stream each
    if run.parametrisation == "sp":
        return Scale(std=residual_std if role == "residual" else INIT_STD)
    matrix = role in ("hidden", "residual")
    if run.parametrisation == "mup":
        std = (residual_std if role == "residual" else INIT_STD) / (math.sqrt(wide) if matrix else 1)
        return Scale(std=std, lr=1 / wide if matrix else 1)
    # CompleteP, alpha = 1: the depth factor of the lr is deep ** (alpha - 1) = 1; every group's epsilon shrinks.
    return Scale(
        std=INIT_STD / (math.sqrt(wide) if matrix else 1),
        lr=1 / wide if matrix else 1,
        weight_decay=wide if matrix else 1,
        eps=1 / (wide * deep),
    )


def forward_scale(run: RunConfig) -> Forward:
    size, wide, deep = (
        run.model.query_dim,
        run.model.width / run.base_width,
        run.model.depth / run.base_depth,
    )
    if run.parametrisation == "sp":
        return Forward(residual=1.0, attention=size**-0.5 if run.model.scaled_attention else 1.0, logits=1.0)
    residual = 1 / deep if run.parametrisation == "completep" else 1.0
    return Forward(residual=residual, attention=1 / size, logits=1 / wide)
