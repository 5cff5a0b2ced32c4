"""pytest tests/test_scaling_hypotheses.py"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scaling.hypotheses import Choice, Point, choose, copy_sd, varying


def at(n: float = 1e6, d: float = 1e8, log_lr: float = 0.0, sd: float = 0.05, edge: str | None = None) -> Point:
    return Point(N=n, D=d, C=6 * n * d, log_lr=log_lr, sd=sd, edge=edge)


def ladder(law: Callable[[float], float], ns: list[float], noise: float, seed: int = 0) -> list[Point]:
    rng = np.random.default_rng(seed)
    return [at(n, log_lr=law(n) + noise * rng.normal(), sd=max(noise, 0.02)) for n in ns]


NS = [1e6, 2e6, 4e6, 8e6, 16e6]


def named(choice: Choice, name: str):  # noqa: ANN201
    return next(f for f in choice.all if f.name == name)


@settings(max_examples=60, deadline=None)
@given(exponent=st.floats(-1, 0.05), seed=st.integers(0, 10**6), noise=st.floats(0.02, 0.1))
def test_planted_exponents_lie_in_their_intervals(exponent: float, seed: int, noise: float) -> None:
    points = ladder(lambda n: -6 + exponent * math.log(n / 1e6), NS, noise, seed)
    fit = named(choose(points, at(64e6)), "power in N")
    assert abs(fit.coefficients[1] - exponent) < 4.5 * fit.slope_sd
    assert fit.slope_sd < 2 * noise
    assert abs(fit.log_lr - (-6 + exponent * math.log(64))) < 4.5 * fit.sd


def test_ninety_percent_intervals_cover_about_ninety_percent() -> None:
    hits = []
    for seed in range(150):
        points = ladder(lambda n: -6 - 0.45 * math.log(n / 1e6), NS, 0.08, seed)
        choice = choose(points, at(64e6))
        hits.append(abs(choice.log_lr - (-6 - 0.45 * math.log(64))) < 1.645 * choice.sd)
    assert 0.8 < np.mean(hits) <= 1.0


@pytest.mark.parametrize("family, law", [
    ("none", lambda n: -6.0),
    ("power in N", lambda n: -6 - 0.7 * math.log(n / 1e6)),
    ("log in N", lambda n: math.log(4e-3 - 6e-4 * math.log(n / 1e6))),
    ("linear in N", lambda n: math.log(2e-3 - 6e-11 * n)),
    ("exponential in N", lambda n: -5 - 6e-8 * n),
])  # fmt: skip
def test_the_planted_family_is_among_the_best(family: str, law: Callable[[float], float]) -> None:
    choice = choose(ladder(law, [*NS, 12e6, 6e6], 0.003), at(17e6))
    best = choice.all[0]
    fit = named(choice, family)
    assert choice.chosen is best and not fit.refused
    assert fit.score < best.score + 0.5
    assert choice.log_lr == pytest.approx(law(17e6), abs=0.1)
    assert {f.name for f in choice.all} >= {"none", "square root in N", "polynomial in N"}


def test_sublinear_and_polynomial_forms_are_exact_without_noise() -> None:
    target = at(20e6)
    square = choose(ladder(lambda n: math.log(5e-3 - 9e-7 * math.sqrt(n)), NS, 0.0), target)
    assert named(square, "square root in N").log_lr == pytest.approx(math.log(5e-3 - 9e-7 * math.sqrt(20e6)), abs=1e-6)
    bent = lambda n: -6 - 0.3 * math.log(n / 1e6) - 0.05 * math.log(n / 1e6) ** 2  # noqa: E731
    assert named(choose(ladder(bent, NS, 0.0), target), "polynomial in N").log_lr == pytest.approx(bent(20e6), abs=1e-6)


def test_an_outlier_is_borne() -> None:
    points = ladder(lambda n: -6 - 0.5 * math.log(n / 1e6), [*NS, 3e6, 6e6], 0.02)
    points[2] = at(points[2].N, log_lr=points[2].log_lr + 1.5, sd=0.02)
    fit = named(choose(points, at(64e6)), "power in N")
    assert fit.coefficients[1] == pytest.approx(-0.5, abs=0.12)


def test_two_variables_and_compute() -> None:
    law = lambda n, d: -6 - 0.7 * math.log(n / 1e6) + 0.3 * math.log(d / 1e8)  # noqa: E731
    points = [at(n, d, law(n, d), 0.02) for n in NS[:3] for d in (1e8, 3e8, 1e9)]
    target = at(2e7, 4e9)
    assert varying(points, target) == ("N", "D", "C")
    choice = choose(points, target)
    assert choice.chosen and choice.chosen.name == "power in N and D"
    assert choice.log_lr == pytest.approx(law(2e7, 4e9), abs=0.05)


def test_refusals() -> None:
    rising = choose(ladder(lambda n: -6 + 0.6 * math.log(n / 1e6), NS, 0.02), at(64e6))
    reasons = dict(rising.refused)
    assert "against all published evidence" in reasons["power in N"]
    far = dict(choose(ladder(lambda n: -6 - 0.4 * math.log(n / 1e6), NS, 0.02), at(1e13)).refused)
    assert "too far" in far["power in N"] and "too far" in far["polynomial in N"]
    two = dict(choose(ladder(lambda n: -6.0, NS[:2], 0.02), at(8e6)).refused)
    assert "leave none to check it" in two["power in N"] and "cannot fix" in two["polynomial in N"]
    negative = choose(ladder(lambda n: math.log(3e-3 - 1.7e-10 * n), NS, 0.003), at(30e6))
    assert dict(negative.refused)["linear in N"] == "it gives no positive lr at the target"
    same = dict(choose(ladder(lambda n: -6.0, [1e6] * 3, 0.02), at(8e6)).refused)
    assert "cannot fix" in same["power in N"]


def test_a_form_that_misses_its_points_is_refused() -> None:
    steep = choose(ladder(lambda n: -5 - 1.1 * math.log(n / 1e6), NS, 0.01), at(64e6))
    assert "misses its own optima" in dict(steep.refused)["none"]


def test_edges_are_left_out_and_nothing_gives_nothing() -> None:
    points = ladder(lambda n: -6 - 0.4 * math.log(n / 1e6), NS, 0.02)
    wrong = at(32e6, log_lr=-3, edge="high")
    choice = choose([*points, wrong], at(64e6))
    assert choice.log_lr == pytest.approx(choose(points, at(64e6)).log_lr)
    assert "1 of 6 optima at the edge" in choice.reasons[0]
    for empty in (choose([wrong], at(64e6)), choose([], at(64e6))):
        assert empty.chosen is None and math.isnan(empty.log_lr) and empty.refused
    alone = choose(points[:1], at(2e6))
    assert alone.chosen and alone.chosen.name == "none" and alone.sd == pytest.approx(0.03)  # the floor


def test_copying_further_is_less_sure() -> None:
    assert copy_sd(0, 0) == 0
    assert copy_sd(math.log(8), 0) > copy_sd(math.log(2), 0) > copy_sd(0, math.log(2)) > 0


def test_speed() -> None:
    points = ladder(lambda n: -6 - 0.4 * math.log(n / 1e6), list(np.geomspace(1e6, 1e9, 1000)), 0.1)
    start = time.process_time()
    choose(points, at(2e9))
    assert time.process_time() - start < 5
