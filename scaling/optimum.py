"""The optimum of loss against ln lr at one (N, D, B), from few noisy points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """Where the valley of loss(ln lr) has its floor, and how surely."""

    log_lr: float
    """ln of the best lr."""
    sd: float
    """Standard deviation of `log_lr` (nats); covers noise and the form of the curve."""
    loss: float
    """Loss at the floor."""
    curvature: float
    """Second derivative of loss by ln lr at the floor; 0 when unknown."""
    edge: Literal["low", "high"] | None = None
    """The optimum lies at or beyond this end of the lrs that were tried; then `log_lr` is that end, not a fit."""
    points: tuple[int, ...] = ()
    """Indices of the observations used."""
    method: str = ""
    reasons: tuple[str, ...] = field(default=())
    """Doubts, one sentence each."""
