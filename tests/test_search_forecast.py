"""How long a plan takes on some slots."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.budget import Spending
from search.strategy import Stage, wall_seconds

SLOTS = st.integers(1, 8)


def stage(trials: int, each: float, waits: bool = False) -> Stage:
    cost = Spending(each * max(1, trials), 0.0, 0.0)
    return Stage(name="", trials=trials, parameters=1, tokens=1.0, cost=cost, waits=waits)


STAGES = st.lists(st.builds(stage, st.integers(1, 20), st.floats(0.1, 100.0), st.booleans()), min_size=1, max_size=6)


def test_trials_do_not_divide() -> None:
    assert wall_seconds([stage(5, 2.0)], 2) == 6.0
    assert wall_seconds([stage(3, 2.0), stage(1, 5.0)], 2) == 7.0  # the fourth takes the slot that is free
    assert wall_seconds([stage(3, 2.0), stage(1, 5.0, waits=True)], 2) == 9.0
    assert wall_seconds([stage(0, 8.0)], 2) == 4.0
    assert wall_seconds([], 2) == 0.0


@given(STAGES, SLOTS)
def test_between_the_ideal_and_one_slot(stages: list[Stage], slots: int) -> None:
    seconds = [s.cost.seconds for s in stages]
    longest = max(s.cost.seconds / s.trials for s in stages)
    found = wall_seconds(stages, slots)
    assert max(sum(seconds) / slots, longest) <= found * (1 + 1e-9) and found <= sum(seconds) * (1 + 1e-9)
    assert wall_seconds(stages, 1) == pytest.approx(sum(seconds))
    if all(s.waits for s in stages[1:]):
        assert found == pytest.approx(sum(s.cost.seconds / s.trials * math.ceil(s.trials / slots) for s in stages))


@given(STAGES, SLOTS)
def test_prefixes_take_no_longer(stages: list[Stage], slots: int) -> None:
    times = [wall_seconds(stages[:k], slots) for k in range(len(stages) + 1)]
    assert all(a <= b for a, b in pairwise(times))
