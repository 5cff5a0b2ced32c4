"""Coordinate check (Yang et al., arXiv 2203.03466, appendix D.1): do activations move as much at every width or depth?

Trains a few steps at several sizes on the same tokens and compares how far each activation has moved from its
initial value. In a parametrisation that transfers, that is independent of size; a slope shows what is wrong, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from trainer.architecture.model import Transformer
from trainer.config import RunConfig
from trainer.data.masking import NOTHING
from trainer.errors import UserError
from trainer.optimizer import make_optimizer, set_lr

TOLERANCE = 0.4  # of the slope in log-log: of muP and CompleteP up to -0.35, of mistakes 0.6 to 2.5


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Mean |activation - its initial value| after the last step, by size."""

    name: str
    """embedding, attention, feed_forward, residual (the stream after the last block), logits."""
    sizes: tuple[int, ...]
    moved: tuple[float, ...]

    @property
    def slope(self) -> float:
        """d ln moved / d ln size: 0 where it transfers, positive where larger models learn too fast."""
        return float(np.polyfit(np.log(self.sizes), np.log(np.maximum(self.moved, 1e-30)), 1)[0])

    @property
    def passes(self) -> bool:
        return abs(self.slope) <= TOLERANCE


def coordinate_check(
    run: RunConfig,
    *,
    widths: Sequence[int] = (),
    depths: Sequence[int] = (),
    lr: float = 2**-7,
    steps: int = 4,
    seeds: int = 3,
) -> list[Movement]:
    """Movements over `widths` at run's depth, or over `depths` at its width (one of the two). Head size stays."""
    if bool(widths) == bool(depths) or len(widths or depths) < 2:
        raise UserError("A coordinate check needs two or more widths, or two or more depths.")
    head = run.model.head_dim
    sizes = tuple(widths or depths)
    shapes = [(run.model.depth, w) for w in widths] or [(d, run.model.width) for d in depths]
    table: dict[str, list[float]] = {}
    for depth, width in shapes:
        shaped = run.shaped(depth, width, max(1, width // head))
        found = [_moved(replace(shaped, seed=seed), lr, steps) for seed in range(seeds)]
        for name in found[0]:
            table.setdefault(name, []).append(float(np.mean([f[name] for f in found])))
    return [Movement(name=n, sizes=sizes, moved=tuple(m)) for n, m in table.items()]


def _moved(run: RunConfig, lr: float, steps: int) -> dict[str, float]:
    model = Transformer(run)
    optimizer = make_optimizer(model, replace(run, weight_decay=0.0))
    generator = torch.Generator().manual_seed(run.seed)
    # A few common tokens: with uniform ones there is nothing to learn, and the gradient's direction is noise.
    tokens = (torch.rand(8, run.model.context + 1, generator=generator) ** 3 * run.model.vocabulary).long()
    tokens, targets = tokens[:, :-1], tokens[:, 1:]
    if run.objective == "masked":  # every eighth is hidden behind the last id
        targets = torch.where(torch.arange(run.model.context) % 8 == 0, tokens, NOTHING)
        tokens = torch.where(targets == NOTHING, tokens, run.model.vocabulary - 1)
    before = _activations(model, tokens)
    for _ in range(steps):
        set_lr(optimizer, lr)
        model.loss(tokens, targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = _activations(model, tokens)
    return {name: (after[name] - before[name]).abs().mean().item() for name in before}


@torch.no_grad()
def _activations(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    last = model.blocks[-1]
    watched: dict[str, nn.Module] = {
        "embedding": model.embedding,
        "attention": last.attention,  # type: ignore[dict-item]
        "feed_forward": last.feed_forward,  # type: ignore[dict-item]
        "residual": last,
    }

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _module, _inputs, output: seen.update({name: output})

    hooks = [module.register_forward_hook(watch(name)) for name, module in watched.items()]
    seen["logits"] = model(tokens)
    for hook in hooks:
        hook.remove()
    return seen
