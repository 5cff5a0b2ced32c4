"""pytest tests/test_scaling_optimum.py"""

from __future__ import annotations

import csv
import math
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.optimum import Optimum, fit_optimum, regret, valley

SHARED = Path(os.environ.get("HPT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def planted(
    lrs: np.ndarray, floor: float, curvature: float = 0.06, loss: float = 3.0, wall: float = 0.4
) -> np.ndarray:
    return loss + curvature * valley(np.log(lrs) - floor, wall)


@settings(max_examples=60, deadline=None)
@given(
    floor=st.floats(-8, -4),
    off=st.floats(-0.34, 0.34),
    curvature=st.floats(0.02, 0.2),
    wall=st.floats(0, 2),
)
def test_planted_floor_lies_within_its_interval(
    floor: float, off: float, curvature: float, wall: float
) -> None:
    lrs = np.exp(floor + off + math.log(2) * np.arange(-2, 3))
    found = fit_optimum(lrs, planted(lrs, floor, curvature, wall=wall))
    assert found is not None and found.edge is None
    assert abs(found.log_lr - floor) < 2 * found.sd
    assert found.sd < 0.6 and found.curvature == pytest.approx(curvature, rel=1.0)
    assert found.loss == pytest.approx(3.0, abs=0.005)


@settings(max_examples=40, deadline=None)
@given(scale=st.floats(0.1, 10), shift=st.floats(-3, 3), seed=st.integers(0, 99))
def test_units_and_order_do_not_matter(scale: float, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lrs = np.exp(-6 + 0.7 * np.arange(6))
    losses = planted(lrs, -4.4) + rng.normal(0, 0.002, 6)
    order = rng.permutation(6)
    first = fit_optimum(lrs, losses)
    other = fit_optimum(lrs[order] * math.exp(shift), losses[order] * scale)
    assert first and other
    assert other.log_lr == pytest.approx(first.log_lr + shift, abs=2e-3)
    assert other.sd == pytest.approx(first.sd, rel=1e-2)
    assert other.curvature == pytest.approx(first.curvature * scale, rel=2e-2)


@pytest.mark.parametrize(
    "points, noise, told", [(5, 0.002, False), (5, 0.002, True), (9, 0.003, True)]
)
def test_intervals_cover_planted_valleys(points: int, noise: float, told: bool) -> None:
    rng = np.random.default_rng(7)
    scores = []
    for _ in range(200):
        floor, curvature = rng.normal(-6, 0.5), 0.06 * math.exp(rng.normal(0, 0.5))
        lrs = np.exp(floor + rng.uniform(-0.5, 0.5) + 0.69 * (np.arange(points) - points // 2))
        losses = planted(lrs, floor, curvature, wall=rng.choice([0.0, 0.4, 1.0])) + rng.normal(
            0, noise, points
        )
        found = fit_optimum(lrs, losses, noise=noise if told else None)
        if found and not found.edge:
            scores.append(abs(found.log_lr - floor) / found.sd)
    assert len(scores) > 180
    assert 0.35 <= np.mean(np.array(scores) < 0.674) <= 0.75
    assert 0.80 <= np.mean(np.array(scores) < 1.645) <= 1.0


@pytest.mark.skipif(not (SHARED / "runs").exists(), reason="recorded runs are not here")
def test_two_halves_of_recorded_sweeps_agree_as_their_intervals_say() -> None:
    """Every second lr of each slice of the Step Law sweep: two fits with independent noise."""
    slices: dict[tuple[str, ...], dict[int, tuple[float, float]]] = defaultdict(dict)
    with open(SHARED / "runs" / "steplaw_dense_small.csv") as file:
        for row in csv.DictReader(file):
            lr = float(row["lr"])
            key = (row["N"], row["D"], row["bs"])
            slices[key][round(2 * math.log2(lr))] = (lr, float(row["smooth loss"]))
    scores = []
    for points in slices.values():
        cap = 1.3 * min(loss for _, loss in points.values())
        halves = []
        for parity in (0, 1):
            half = [p for g, p in points.items() if g % 2 == parity]
            fine, bad = [p for p in half if p[1] < cap], [lr for lr, loss in half if loss >= cap]
            halves.append(fit_optimum([p[0] for p in fine], [p[1] for p in fine], diverged=bad))
        a, b = halves
        if a and b and not a.edge and not b.edge:
            scores.append(abs(a.log_lr - b.log_lr) / math.hypot(a.sd, b.sd))
    assert len(scores) > 95
    assert 0.42 <= np.mean(np.array(scores) < 0.674) <= 0.70
    assert 0.85 <= np.mean(np.array(scores) < 1.645) <= 0.98


def test_edges_and_divergence() -> None:
    lrs, falling = [1e-3, 2e-3, 4e-3], [3.02, 3.01, 3.0]
    high, low = fit_optimum(lrs, falling), fit_optimum(lrs, falling[::-1])
    assert (
        high
        and high.edge == "high"
        and high.log_lr == pytest.approx(math.log(4e-3))
        and high.sd > 0.5
    )
    assert low and low.edge == "low" and low.log_lr == pytest.approx(math.log(1e-3)) and low.reasons
    closed = fit_optimum(lrs, falling, diverged=[8e-3])
    assert closed and closed.edge is None and closed.log_lr < math.log(8e-3) and closed.sd > 0.15
    far = fit_optimum(lrs, falling, diverged=[0.5])
    assert far and far.edge == "high"


def test_a_divergence_moves_the_optimum_down() -> None:
    lrs = [1e-3, 2e-3, 4e-3]
    free = fit_optimum(lrs, [3.01, 3.0, 3.002])
    bounded = fit_optimum(lrs, [3.01, 3.0, 3.002], diverged=[4.5e-3])
    assert free and bounded and bounded.log_lr < free.log_lr


def test_nothing_one_and_two_points() -> None:
    assert fit_optimum([], []) is None
    assert fit_optimum([1e-3], [math.nan], diverged=[1e-2]) is None
    one = fit_optimum([1e-3], [3.0])
    assert one and one.edge and one.sd > 0.5 and "three" in one.reasons[-1]
    assert fit_optimum([1e-3, 2e-3], [3.0, 3.1]).edge == "low"  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="positive"):
        fit_optimum([-1e-3], [3.0])


def test_repeats_are_averaged_and_sharpen() -> None:
    lrs = np.exp(-6 + 0.69 * np.arange(5))
    losses = planted(lrs, -4.6)
    single = fit_optimum(lrs, losses)
    twice = fit_optimum([*lrs, *lrs * 1.001], [*losses, *losses + 1e-4])
    assert single and twice and twice.sd < single.sd and len(twice.points) == 10
    assert twice.method.endswith("5 lrs")


def test_regret_grows_away_from_the_floor_and_faster_above() -> None:
    found = Optimum(log_lr=-6, sd=0.1, loss=3.0, curvature=0.06)
    at = regret(found, -6)
    assert at == pytest.approx(0.06 * 0.1**2 / 2, rel=0.1)
    assert regret(found, -5) > regret(found, -7) > at
    assert regret(Optimum(log_lr=-6, sd=0.1, loss=3.0, curvature=0), -5) > 0


def test_a_thousand_optima_in_ten_seconds() -> None:
    lrs = np.exp(-6 + 0.5 * np.arange(9))
    start = time.perf_counter()
    for i in range(100):
        fit_optimum(lrs, planted(lrs, -4 + i * 1e-3))
    assert time.perf_counter() - start < 1.0
