"""The batch-conditional law: its form, its fit to losses, and the design of runs."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.batchlaw import law, prior, valley
from scaling.batchsize import batch_prior, fit_batches
from scaling.design import Design
from scaling.hierarchy import fit
from scaling.posterior import Runs

N, D, B = 4e8, 2e10, 5e5
ORIGIN = np.log([N, D, B])


def planted(theta: np.ndarray, points: np.ndarray, spread=(-1.0, -0.3, 0.4, 1.0), noise=3e-4, seed=0) -> Runs:
    """Runs at `points` (m, 3), around the optima of `theta`: quadratic valleys with a cubic wall."""
    rng = np.random.default_rng(seed)
    mu = law(theta, points)[0]
    z = np.tile(np.array(spread), len(points)) + np.repeat(rng.uniform(-0.3, 0.3, len(points)), len(spread))
    rows = np.repeat(points, len(spread), axis=0)
    floor = 2.5 - 0.1 * rows[:, 0] - 0.1 * rows[:, 1]
    loss = floor * (1 + 0.007 * z**2 + 0.01 * np.maximum(z, 0) ** 3)
    loss *= 1 + noise * rng.standard_normal(len(z))
    return Runs(*rows.T, np.repeat(mu, len(spread)) + z, loss)


def grid(ns=(-3, -2, -1), ds=(-3, -1.5, 0), bs=(-1.5, 0, 1.5)) -> np.ndarray:
    return np.array([(n, d, b) for n in ns for d in ds for b in bs], dtype=float)


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_gradient_of_the_law_is_its_derivative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    theta, points = rng.normal(0, 1, 7), rng.normal(0, 2, (4, 3))
    _, gradient = law(theta, points)
    for i in range(7):
        step = np.eye(7)[i] * 1e-6
        slope = (law(theta + step, points)[0] - law(theta - step, points)[0]) / 2e-6
        np.testing.assert_allclose(gradient[:, i], slope, atol=1e-6)


def test_law_has_both_regimes() -> None:
    theta = np.array([0.5, -6, 0.0, 0.8, -0.4, 0.0, 0.25])
    small, large = np.array([[0, 0, -5.0], [0, 1, -5.0]]), np.array([[0, 0, 5.0], [0, 1, 5.0]])
    assert np.diff(law(theta, small)[0])[0] == pytest.approx(-0.4, abs=0.01)
    assert np.diff(law(theta, large)[0])[0] == pytest.approx(0.25, abs=0.01)
    size = law(theta, np.array([[0.0, 0, 5], [1.0, 0, 5]]))[0]
    assert np.diff(size)[0] == pytest.approx(-0.5)


@pytest.mark.parametrize("k", [0.3, 1.0, 2.0])
def test_valley_is_quadratic_at_the_floor_and_steeper_above(k: float) -> None:
    phi, slope, by_k = valley(np.array([-1.0, -1e-3, 0.0, 1e-3, 1.0]), k)
    assert phi[2] == slope[2] == 0 and phi[4] > phi[0] > 0
    np.testing.assert_allclose(phi[[1, 3]], 1e-6, rtol=2e-3)
    up = valley(np.array([-1.0, 1.0]), k * math.exp(1e-6))[0]
    np.testing.assert_allclose((up - phi[[0, 4]]) / 1e-6, by_k[[0, 4]], rtol=1e-3, atol=1e-5)


def test_least_expected_loss_lies_below_the_mean_by_k_v_over_2() -> None:
    draws, k = np.random.default_rng(0).normal(0, 0.4, 200_000), 1.2
    at = np.linspace(-0.4, 0.3, 71)
    mean = np.array([valley(x - draws, k)[0].mean() for x in at])
    assert at[mean.argmin()] == pytest.approx(-k * 0.16 / 2, abs=0.02)
    assert mean.min() == pytest.approx(0.16, rel=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_planted_law_is_recovered_within_its_interval(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = prior(N, D, B)
    theta = p.mean + rng.normal(0, 0.7, 7) * p.sd
    found = fit(planted(theta, grid(), seed=seed), p)
    mean, sd = found.predict()
    assert abs(mean - law(theta, np.zeros((1, 3)))[0][0]) < 3 * sd < 0.7
    z = (found.mean[:7] - theta) / np.sqrt(np.diag(found.cov)[:7])
    assert np.abs(z).max() < 3.5
    assert abs(found.mean[0] - theta[0]) < 0.2 and found.cov[0, 0] < 0.15**2 < p.sd[0] ** 2


def test_fit_of_sixty_runs_is_fast() -> None:
    runs = planted(prior(N, D, B).mean, grid()[:15])
    started = time.process_time()
    for _ in range(5):
        fit(runs, prior(N, D, B))
    assert len(runs) == 60 and (time.process_time() - started) / 5 < 0.1


def test_without_runs_the_fit_is_the_prior() -> None:
    p = prior(N, D, B)
    none = np.zeros(0)
    mean, sd = fit(Runs(none, none, none, none, none), p).predict()
    assert mean == pytest.approx(law(p.mean, np.zeros((1, 3)))[0][0]) and 0.8 < sd < 1.6
    mup = prior(N, D, B, "mup")
    assert mup.mean[0] == 0 and mup.sd[0] < p.sd[0] and mup.sd[1] > p.sd[1]


def test_diverged_runs_push_the_optimum_down() -> None:
    p = prior(N, D, B)
    point = np.array([[-1.0, -1.0, 0.0]])
    centre = float(law(p.mean, point)[0][0])
    means = []
    for diverged in ((), (0.0, 0.7)):
        x = centre + np.array([-1.4, -0.7, *diverged])
        loss = np.array([2.52, 2.5, *(math.inf for _ in diverged)])
        rows = np.repeat(point, len(x), axis=0)
        means.append(fit(Runs(*rows.T, x, loss), p).predict()[0])
    assert means[1] < means[0] - 0.1


def test_all_diverged_still_fits() -> None:
    one = np.zeros(2)
    found = fit(Runs(one, one, one, np.array([-3.0, -4.0]), np.array([math.inf] * 2)), prior(N, D, B))
    assert np.isfinite(found.mean).all() and found.predict()[1] > 0.2


def test_outlier_moves_the_answer_little() -> None:
    theta = prior(N, D, B).mean
    runs = planted(theta, grid())
    clean = fit(runs, prior(N, D, B)).predict()
    runs.loss[5] *= 1.03
    spoilt = fit(runs, prior(N, D, B)).predict()
    assert abs(clean[0] - spoilt[0]) < 0.5 * clean[1]


def test_design_weighs_information_by_cost() -> None:
    none = np.zeros(0)
    found = fit(Runs(none, none, none, none, none), prior(N, D, B))
    cells = np.array([[-1.0, 0, 0], [-4.0, 0, 0]])
    cheap = Design(found, cells, np.array([1.0, 1e-3]), np.zeros(3)).choose(10, -20, 0)
    even = Design(found, cells, np.array([1.0, 1.0]), np.zeros(3)).choose(10, -20, 0)
    assert cheap is not None and even is not None and (cheap.cell, even.cell) == (1, 0)
    assert len(even.log_lr) in (2, 3) and even.saved > 0
    assert Design(found, cells, np.array([1.0, 1.0]), np.zeros(3)).choose(1.5, -20, 0) is None


def test_design_forecasts_the_variance_that_a_fit_then_has() -> None:
    theta = prior(N, D, B).mean
    before = fit(planted(theta, grid()[:3], noise=7e-4), prior(N, D, B))
    more = np.array([[-1.0, 0.0, 0.0]])
    design = Design(before, more, np.ones(1), np.zeros(3))
    design.assume(0, law(theta, more)[0] + np.array([-1.0, 0.0, 1.0]))
    runs = planted(theta, np.vstack([grid()[:3], more]), noise=7e-4)
    assert math.sqrt(design.variance) == pytest.approx(fit(runs, prior(N, D, B)).predict()[1], rel=0.35)
    assert design.variance < before.predict()[1] ** 2


def test_best_batch_is_found_from_the_floors() -> None:
    theta = prior(N, D, B).mean
    runs = planted(theta, grid(bs=(-3.0, -1.5, 0.0, 1.5)))
    best = ORIGIN[2] - 1 + 0.5 * runs.d
    bowl = 1 + 0.003 * (runs.b + ORIGIN[2] - best) ** 2
    runs = Runs(runs.n, runs.d, runs.b, runs.log_lr, runs.loss * bowl)
    found = fit_batches(fit(runs, prior(N, D, B)), runs, ORIGIN)
    mean, sd = found.predict()
    assert mean == pytest.approx(ORIGIN[2] - 1, abs=0.3) and sd < batch_prior(D, 1e-3).sd[1]
