"""The optimum of planted valleys and of real slices, and how honest its standard deviation is."""

from __future__ import annotations

import csv
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.optimum import Optimum, decide, fit_optimum


def planted(lrs: np.ndarray, floor: float, curvature: float = 0.06, loss: float = 3.0, skew: float = 0.8) -> np.ndarray:
    return loss + Optimum(log_lr=floor, sd=0, loss=loss, curvature=curvature, skew=skew).excess(np.log(lrs))


@settings(max_examples=60, deadline=None)
@given(st.floats(-8, -4), st.floats(-0.34, 0.34), st.floats(0.02, 0.2), st.floats(0, 2))
def test_planted_floor_lies_within_its_interval(floor: float, off: float, curvature: float, skew: float) -> None:
    lrs = np.exp(floor + off + math.log(2) * np.arange(-2, 3))
    found = fit_optimum(lrs, planted(lrs, floor, curvature, skew=skew))
    assert found is not None and found.edge is None
    assert abs(found.log_lr - floor) < 2 * found.sd and found.sd < 0.6
    assert found.curvature == pytest.approx(curvature, rel=1.0)
    assert found.loss == pytest.approx(3.0, abs=0.005)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 10), st.floats(-3, 3), st.integers(0, 99))
def test_units_and_order_do_not_matter(scale: float, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lrs = np.exp(-6 + 0.7 * np.arange(6))
    losses = planted(lrs, -4.4) + rng.normal(0, 0.002, 6)
    order = rng.permutation(6)
    first = fit_optimum(lrs, losses)
    other = fit_optimum(lrs[order] * math.exp(shift), losses[order] * scale)
    assert first and other
    assert other.log_lr == pytest.approx(first.log_lr + shift, abs=5e-3)
    assert other.curvature == pytest.approx(first.curvature * scale, rel=5e-2)


@pytest.mark.parametrize(("points", "noise"), [(3, 0.002), (5, 0.002), (9, 0.003)])
def test_intervals_cover_planted_valleys(points: int, noise: float) -> None:
    rng = np.random.default_rng(7)
    scores = []
    for _ in range(150):
        floor, curvature = rng.normal(-6, 0.5), 0.06 * math.exp(rng.normal(0, 0.5))
        lrs = np.exp(floor + rng.uniform(-0.5, 0.5) + 0.69 * (np.arange(points) - points // 2))
        losses = planted(lrs, floor, curvature, skew=rng.choice([0.0, 0.8, 2.0])) + rng.normal(0, noise, points)
        found = fit_optimum(lrs, losses, noise=noise)
        if found and not found.edge:
            scores.append(abs(found.log_lr - floor) / found.sd)
    assert len(scores) >= 90
    assert 0.35 <= np.mean(np.array(scores) < 0.674) <= 0.9
    assert np.mean(np.array(scores) < 1.645) >= 0.85


def test_two_halves_of_recorded_sweeps_agree_as_their_intervals_say(shared: Path) -> None:
    """Every second lr of each slice at fixed (N, D, B): two fits with independent noise."""
    slices: dict[tuple[str, ...], dict[int, tuple[float, float]]] = defaultdict(dict)
    with open(shared / "runs" / "steplaw_dense_small.csv") as file:
        for row in csv.DictReader(file):
            lr = float(row["lr"])
            slices[row["N"], row["D"], row["bs"]][round(2 * math.log2(lr))] = (lr, float(row["smooth loss"]))
    scores, gaps = [], []
    for points in slices.values():
        halves = [[p for g, p in points.items() if g % 2 == parity] for parity in (0, 1)]
        a, b = (fit_optimum(*zip(*half, strict=True)) for half in halves)
        if a and b and not a.edge and not b.edge:
            gaps.append(a.log_lr - b.log_lr)
            scores.append(abs(gaps[-1]) / math.hypot(a.sd, b.sd))
    assert len(scores) > 80
    assert float(np.std(gaps)) < 0.2  # a fifth of the spacing of either half would be 0.14
    assert np.mean(np.array(scores) < 0.674) >= 0.45
    assert np.mean(np.array(scores) < 1.645) >= 0.85


def test_edges_and_divergence() -> None:
    lrs, falling = [1e-3, 2e-3, 4e-3], [3.02, 3.01, 3.0]
    high, low = fit_optimum(lrs, falling), fit_optimum(lrs, falling[::-1])
    assert high and high.edge == "high" and high.log_lr == pytest.approx(math.log(4e-3)) and high.sd > 0.5
    assert low and low.edge == "low" and low.log_lr == pytest.approx(math.log(1e-3)) and low.reasons
    closed = fit_optimum(lrs, falling, diverged=[8e-3])
    assert closed and closed.edge is None and closed.log_lr < math.log(8e-3) and closed.sd > 0.15
    far = fit_optimum(lrs, falling, diverged=[0.5])
    assert far and far.edge == "high"
    odd = fit_optimum(lrs, [3.01, 3.0, 3.01], diverged=[1.5e-3])
    assert odd and "diverged" in odd.reasons[-1]


def test_a_divergence_moves_the_optimum_down_and_never_wins() -> None:
    lrs = [1e-3, 2e-3, 4e-3]
    free = fit_optimum(lrs, [3.01, 3.0, 3.002])
    bounded = fit_optimum(lrs, [3.01, 3.0, 3.002], diverged=[4.5e-3])
    assert free and bounded and bounded.log_lr < free.log_lr


def test_nothing_one_and_two_points() -> None:
    assert fit_optimum([], []) is None
    assert fit_optimum([1e-3], [math.nan], diverged=[1e-2]) is None
    one = fit_optimum([1e-3], [3.0])
    assert one and one.edge and one.sd > 0.5
    two = fit_optimum([1e-3, 2e-3], [3.0, 3.1])
    assert two and two.edge == "low"
    with pytest.raises(ValueError, match="positive"):
        fit_optimum([-1e-3], [3.0])


def test_repeats_are_averaged_and_sharpen() -> None:
    lrs = np.exp(-6 + 0.69 * np.arange(5))
    losses = planted(lrs, -4.6)
    single = fit_optimum(lrs, losses, noise=0.01)
    twice = fit_optimum([*lrs, *lrs * 1.001], [*losses, *losses + 1e-4], noise=0.01)
    assert single and twice and twice.sd < single.sd and twice.points == single.points == 5


@given(st.floats(0.05, 1.0), st.floats(0, 3))
def test_decision_is_a_shade_below_the_mean_and_beats_it(sd: float, skew: float) -> None:
    valley = Optimum(log_lr=-6, sd=sd, loss=3.0, curvature=0.06, skew=skew)
    found = decide(valley, -5.0, sd)
    assert -5.0 - 2 * sd <= found.log_lr <= -5.0 + 0.03 * sd
    truth = np.random.default_rng(0).normal(-5.0, sd, 4000)
    at = Optimum(log_lr=0, sd=0, loss=0, curvature=0.06, skew=skew)
    mean_loss = float(np.mean(at.excess(-5.0 - truth)))
    assert found.expected_regret == pytest.approx(float(np.mean(at.excess(found.log_lr - truth))), rel=0.15)
    assert found.expected_regret <= mean_loss * 1.1 and found.worst_regret > found.expected_regret


@pytest.mark.parametrize("curvature", [0.0, 0.3])
@pytest.mark.parametrize("sd", [0.1, 1.0, 2.1, 4.0])
def test_a_decision_stays_in_the_central_half_and_an_unknown_curvature_moves_nothing(
    sd: float, curvature: float
) -> None:
    known = decide(Optimum(log_lr=0.0, sd=sd, loss=3.0, curvature=0.3), -5.0, sd)
    found = decide(Optimum(log_lr=0.0, sd=sd, loss=3.0, curvature=curvature), -5.0, sd)
    assert found.log_lr == known.log_lr and -5 - 0.6745 * sd <= found.log_lr < -5
    assert (found.expected_regret > 0) == (curvature > 0)


def test_a_thousand_optima_in_ten_seconds() -> None:
    lrs = np.exp(-6 + 0.5 * np.arange(9))
    start = time.process_time()
    for i in range(100):
        fit_optimum(lrs, planted(lrs, -4 + i * 1e-3))
    assert time.process_time() - start < 1.0


@given(
    st.lists(st.tuples(st.floats(1e-4, 1e-1), st.floats(2, 12)), min_size=1, max_size=8),
    st.lists(st.floats(1e-4, 1e-1)),
)
@settings(max_examples=100, deadline=None)
def test_any_losses_give_an_optimum_inside_what_was_tried(runs: list[tuple[float, float]], lost: list[float]) -> None:
    """However chaotic: no interval wider than the sweep, no lr outside it, nothing that is not a number."""
    lrs, losses = zip(*runs, strict=True)
    found = fit_optimum(lrs, losses, diverged=lost)
    assert found is not None and math.isfinite(found.loss) and math.isfinite(found.curvature)
    assert math.log(min(lrs)) - 1e-9 <= found.log_lr <= math.log(max(lrs)) + 1e-9
    width = math.log(max(lrs) / min(lrs))
    assert 0 < found.sd <= max(1.0, width)
