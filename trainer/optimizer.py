"""AdamW with one group for each (scale, decays or not)."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from trainer.architecture.model import role
from trainer.architecture.parametrisation import Scale, scale
from trainer.config import RunConfig


def make_optimizer(model: nn.Module, run: RunConfig) -> torch.optim.AdamW:
    """Weight decay on matrices and embeddings, not on biases and norms (as GPT-2's reproductions do).

    Each group carries `lr_scale`; `set_lr` multiplies by it.
    """
    groups: dict[tuple[Scale, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        groups[scale(run, role(name, parameter)), parameter.dim() >= 2].append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": 0.0,
                "lr_scale": s.lr,
                "eps": run.eps * s.eps,
                "weight_decay": run.weight_decay * s.weight_decay if decays else 0.0,
            }
            for (s, decays), parameters in groups.items()
        ],
        betas=run.betas,
        fused=True,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
