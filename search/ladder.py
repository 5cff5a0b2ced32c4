"""Smaller runs of a target's family, where no menu restricts the choice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from trainer.config import RunConfig
from trainer.counts import parameters

MIN_STEPS = 50  # below, a schedule is mostly warmup and its best lr says little about a long one


def scaled(target: RunConfig, share: float) -> RunConfig:
    """The target's shape with about `share` of its non-embedding parameters: depth and width shrink alike.

    The head size is kept where the width allows it, as families of models do.
    """
    m, size = target.model, m_size(target)
    best = target
    for depth in range(1, m.depth + 1):
        # blocks cost depth x width^2; the aspect ratio width/depth moves as little as the counts allow
        width = m.width * (share * m.depth / depth) ** 0.5
        heads = max(1, round(width / m.head_dim))
        channels = m.head_dim * heads if width > 0.75 * m.head_dim else max(8, round(width / 8) * 8)
        candidate = target.shaped(depth, channels, heads)
        off = _distance(candidate, target, share, size)
        if best is target or off < _distance(best, target, share, size):
            best = candidate
    return best


def _distance(run: RunConfig, target: RunConfig, share: float, size: int) -> float:
    aspect = (run.model.width / run.model.depth) / (target.model.width / target.model.depth)
    ratio = m_size(run) / (share * size)
    return abs(ratio - 1) + 0.3 * max(aspect, 1 / aspect)


def m_size(run: RunConfig) -> int:
    return parameters(run.model).non_embedding


def ladder(
    target: RunConfig, sizes: Iterable[float], horizons: Iterable[float], batches: Iterable[float] = (1.0,)
) -> tuple[RunConfig, ...]:
    """Every whole run of these shares of the target's parameters, tokens and batch, smaller than the target in N or D.

    Warmup keeps its share of the tokens; runs of fewer than MIN_STEPS steps are left out.
    """
    runs: dict[tuple[int, int, int], RunConfig] = {}
    for size in sizes:
        shape = target if size == 1 else scaled(target, size)
        for horizon in horizons:
            for batch in batches:
                unit = max(1, round(batch * target.batch / target.model.context)) * target.model.context
                tokens = max(1, round(horizon * target.tokens / unit)) * unit
                if (size == 1 and horizon == 1) or tokens < MIN_STEPS * unit:
                    continue
                warmup = round(target.warmup * tokens / target.tokens)
                run = replace(shape, tokens=tokens, batch=unit, warmup=warmup, lr=None)
                runs.setdefault((m_size(run), tokens, unit), run)
    return tuple(runs.values())
