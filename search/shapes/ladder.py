"""Shapes: smaller runs of a target's family, and models of a given number of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from trainer.architecture.counts import parameters
from trainer.config import ModelConfig, RunConfig

MIN_STEPS = 50  # below, a schedule is mostly warmup and its best lr says little about a long one

WARMUP = 0.4  # of a shorter run, at most
SHORT = 0.25  # of the target's tokens: a shorter run is lengthened where it must be, up to two thirds of this


def warmup_within(target: RunConfig, tokens: float) -> int:
    """Tokens of warmup of a run of so many `tokens`: the target's own, at most two fifths of the run.

    What warmup prevents takes steps, not a share of the run: with a share, runs of a quarter of the tokens ended up to
    0.6 nats higher at the target's best lr, and best at half of it (notebooks/LOG.md, 2026-11-27).
    """
    return round(min(target.warmup, WARMUP * tokens))


def scaled(target: RunConfig, share: float) -> RunConfig:
    """The target's shape with about `share` of its non-embedding parameters: depth and width shrink
    alike.

    The head size is kept where the width allows it, as families of models do.
    """
    m, size = target.model, size_of(target)
    best = target
    for depth in range(1, m.depth + 1):
        # blocks cost depth x width^2; the aspect ratio width/depth moves as little as the counts
        # allow
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
    ratio = size_of(run) / (share * size)
    return abs(ratio - 1) + 0.3 * max(aspect, 1 / aspect)


def size_of(run: RunConfig) -> int:
    """Non-embedding parameters."""
    return parameters(run.model).non_embedding


def ladder(
    target: RunConfig,
    sizes: Iterable[float],
    horizons: Iterable[float],
    batches: Iterable[float] = (1.0,),
) -> tuple[RunConfig, ...]:
    """Every whole run of these shares of the target's parameters, tokens and batch, smaller than
    the target in N or D.

    Warmup is the target's, as far as it fits. Horizons below a quarter are lengthened until it does, or left out where
    that would make them a quarter themselves; runs of fewer than MIN_STEPS steps are left out.
    """
    runs: dict[tuple[int, int, int], RunConfig] = {}
    room = target.warmup / WARMUP / target.tokens
    horizons = sorted({h if h >= SHORT else max(h, room) for h in horizons if h >= SHORT or room <= SHORT / 1.5})
    for size in sizes:
        shape = target if size == 1 else scaled(target, size)
        for horizon in horizons:
            for batch in batches:
                unit = max(1, round(batch * target.batch / target.model.context)) * target.model.context
                steps = horizon * target.tokens / unit
                tokens = max(1, math.ceil(steps - 1e-9) if horizon < SHORT else round(steps)) * unit
                if (size == 1 and horizon == 1) or tokens < MIN_STEPS * unit:
                    continue
                run = replace(shape, tokens=tokens, batch=unit, warmup=warmup_within(target, tokens), lr=None)
                runs.setdefault((size_of(run), tokens, unit), run)
    return tuple(runs.values())


def model_of(
    n: int,
    depth: int | None = None,
    width: int | None = None,
    heads: int = 1,
    ffn: int | None = None,
) -> ModelConfig:
    """A shape of about `n` non-embedding parameters whose FLOPs are 6 N a token.

    A context and a vocabulary of 1 leave attention and head out of the bill: a table's cost is the
    6ND by which sweeps are compared. Shapes that do not give `n` (a mixture of experts, say) get
    another ffn.
    """
    width = width or max(8, round((n / 12 / (depth or 8)) ** 0.5 / 8) * 8)
    depth = depth or max(1, round(n / (12 * width * width)))
    plain = {
        "context": 1,
        "vocabulary": 1,
        "positions": "rope",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
    }
    heads = heads if width % heads == 0 and width // heads % 2 == 0 else 1

    def make(hidden: int) -> ModelConfig:
        return ModelConfig(depth=depth, width=width, heads=heads, ffn=hidden, **plain)  # type: ignore[arg-type]

    exact = max(1, round((n / depth - 4 * width * width - 2 * width) / (3 * width)))
    if ffn is not None and abs(parameters(make(ffn)).non_embedding / n - 1) < 0.01:
        exact = ffn
    return make(exact)
