"""Where the best of the lrs tried so far lies, and where to look next: what a strategy asks of one fidelity."""

from __future__ import annotations

import math
from typing import Literal

from scaling.optimum import Optimum, fit_optimum
from search.records import Trial


def one_fidelity(trials: list[Trial]) -> list[tuple[float, float | None]]:
    """(lr, loss) at the longest horizon that was tried at three lrs or more; else at the one tried most often."""
    by_horizon: dict[int, list[tuple[float, float | None]]] = {}
    for t in trials:
        if t.status in ("finished", "diverged"):
            by_horizon.setdefault(t.horizon, []).append((t.lr, t.loss))
    best = max(by_horizon, key=lambda h: (min(len(by_horizon[h]), 3), h), default=None)
    return [] if best is None else sorted(by_horizon[best], key=lambda o: o[0])  # not in the order they ended


def at_edge(observed: list[tuple[float, float | None]]) -> Literal["low", "high"] | None:
    """Which end of the tried lrs the optimum lies at, if any."""
    if observed and all(loss is None for _, loss in observed):
        return "low"
    optimum = _fit(observed)
    return None if optimum is None else optimum.edge


def focused(
    lr_range: tuple[float, float], observed: list[tuple[float, float | None]], factor: float
) -> tuple[float, float]:
    """Where to draw lrs next: around the best so far, further out where that is the last one tried."""
    optimum, edge = _fit(observed), at_edge(observed)
    if not factor or not observed:
        return lr_range
    centre = math.exp(optimum.log_lr) if optimum else min(lr for lr, _ in observed)
    low = centre / (factor**2 if edge == "low" else 2 if edge == "high" else factor)
    high = centre * (factor**2 if edge == "high" else 2 if edge == "low" else factor)
    return (low, high) if optimum else (low, centre)


def _fit(observed: list[tuple[float, float | None]]) -> Optimum | None:
    finite = [(lr, loss) for lr, loss in observed if loss is not None]
    diverged = [lr for lr, loss in observed if loss is None]
    return fit_optimum([lr for lr, _ in finite], [loss for _, loss in finite], diverged=diverged)
