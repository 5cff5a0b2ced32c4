"""The truth of a sweep, and how answers are counted against it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from search.replay.arena import Result
from search.replay.summary import binomial, coverage, summarise
from search.replay.truth import Valley


def valley(step: float = math.sqrt(2), h: float = 0.007, noise: float = 0.0, seed: int = 0) -> Valley:
    """Best at 2e-3, dearer above than below, as Step Law's slices are."""
    x = np.log(2e-3) + math.log(step) * np.arange(-6, 7) + 0.1
    z = x - np.log(2e-3)
    loss = 2.3 * (1 + h * z**2 * (1 + np.maximum(z, 0)))
    return Valley(x, loss * (1 + noise * np.random.default_rng(seed).standard_normal(len(x))))


def test_smooth_truth_is_nearer_than_the_grids() -> None:
    assert math.log(math.exp(valley().best) / 2e-3) == pytest.approx(0, abs=0.06)
    errors = {"smooth": [], "grid": []}
    luck = []
    for seed in range(40):
        noisy = valley(noise=0.0007, seed=seed)
        errors["smooth"].append(noisy.best - math.log(2e-3))
        errors["grid"].append(noisy.centre - math.log(2e-3))
        luck.append(noisy.lowest_grid / 2.3 - 1)
    assert np.std(errors["smooth"]) < 0.7 * np.std(errors["grid"])
    assert abs(np.mean(errors["smooth"])) < 0.08
    assert np.mean(luck) < -0.0001  # the lowest of a grid is lucky, which is why both are given


def test_a_sparse_grid_takes_a_parabola_and_a_sparser_one_its_lowest_point() -> None:
    steep = valley(step=2.0, h=0.05)
    assert steep.fit is not None and len(steep.fit[0]) == 3
    assert math.log(math.exp(steep.best) / 2e-3) == pytest.approx(0, abs=0.15)
    bare = valley(step=4.0)
    assert bare.fit is None and bare.best == bare.centre


def test_beyond_the_lrs_nothing_is_known_and_divergence_is() -> None:
    known = valley()
    x, loss = known.log_lr, known.loss.copy()
    loss[-1] = math.inf
    cut = Valley(x, loss)
    assert all(math.isnan(v) for v in cut.regret(math.exp(x[0]) / 1.5))
    assert all(math.isnan(v) for v in cut.regret(math.exp(x[-1]) * 1.5))
    assert all(math.isinf(v) for v in cut.regret(math.exp(x[-1]) * 0.99))
    smooth, grid = cut.regret(4e-3)
    assert smooth == pytest.approx(100 * 0.007 * math.log(2) ** 2 * (1 + math.log(2)), rel=0.25)
    assert smooth > 0 and grid > 0


@pytest.mark.parametrize(("shift", "edge"), [(-3.0, "low"), (3.0, "high"), (0.0, "")])
def test_an_optimum_at_an_end_is_seen(shift: float, edge: str) -> None:
    x = np.linspace(-1, 1, 7)
    found = Valley(x, 2 + 0.1 * (x - shift) ** 2)
    assert found.edge == edge and (found.fit is None) == bool(edge)


RESULT = Result(
    table="t", N=1, D=1, B=1, strategy="s", budget=1.0, seed=0, lr=1.0, batch=1, low50=0.9, high50=1.1, low90=0.5,
    high90=2.0, best_lr=1.0, best_lr_grid=1.0, regret=0.1, regret_grid=0.2, judged=True, outcome="answered", trials=3,
    cost=0.5, reasons="",
)  # fmt: skip


def test_coverage_counts_targets_and_not_seeds() -> None:
    many = [replace(RESULT, seed=seed) for seed in range(100)]
    missed = [replace(RESULT, N=2, seed=seed, best_lr=3.0) for seed in range(100)]
    share, (low, high) = coverage(many + missed, lambda r: r.inside90)
    assert share == 0.5 and low < 0.15 and high > 0.85  # two targets show nothing, however many seeds
    (line,) = summarise(many + missed)
    assert line.targets == 2 and line.searches == 200 and line.width90 == 4 and line.width50 == pytest.approx(1.1 / 0.9)
    assert binomial(180, 200) == pytest.approx((0.86, 0.93), abs=0.01)
    assert binomial(0, 4)[0] == 0 and binomial(4, 4)[1] == 1


def test_refusals_and_what_is_not_judged_are_counted_apart() -> None:
    nan = math.nan
    refused = replace(RESULT, lr=nan, regret=nan, judged=False, outcome="refused", low90=nan, high90=nan)
    outside = replace(RESULT, seed=2, lr=9.0, regret=nan, judged=False)
    unable = replace(refused, seed=3, outcome="unable")
    (line,) = summarise([RESULT, refused, outside, unable])
    assert (line.answered, line.refused, line.unjudged, line.median) == (0.5, 0.25, 0.25, 0.1)
    assert math.isnan(line.missed)
    hopeless = [replace(RESULT, hopeless="flat"), replace(refused, seed=2, hopeless="flat")]
    assert summarise(hopeless)[0].missed == 0.5
    assert replace(RESULT, hopeless="edge").missed == 0  # it says rightly where the best lr lies
    assert replace(RESULT, hopeless="edge", best_lr=9.0).missed == 1


def test_no_floor_below_all_runs_is_made_up_beside_a_cliff() -> None:
    """Flat over a factor of four, then a cliff: a parabola through the best three would dip by 1 %."""
    lrs = np.log([1e-3, 2e-3, 4e-3, 5.66e-3, 8e-3, 1.13e-2, 1.6e-2])
    losses = np.array([3.985, 3.897, 3.892, 3.889, 3.870, 4.302, 4.417])
    cliff = Valley(lrs, losses)
    assert cliff.fit is None and cliff.lowest == 3.870
    assert cliff.regret(4e-3)[0] == pytest.approx(100 * (3.892 / 3.870 - 1))
    assert Valley(lrs[:5], np.array([4.0, 3.9, 3.85, 3.86, 3.9])).fit is not None
