"""Every cap, alone and together, from the first moment: before any step was timed, and after."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from worlds import World, play, problem

from search.budget import Budget, CostModel
from search.execution.session import Session
from search.records import History, Problem
from search.strategies import STRATEGIES, load
from trainer.architecture.counts import run_flops
from trainer.config import to_dict
from trainer.errors import UserError

CAPS = [c for k in (1, 2, 3) for c in itertools.combinations(("usd", "hours", "flops"), k)]
SPEED = 1e12


def capped(caps: tuple[str, ...], runs: float, speed: float = SPEED) -> Problem:
    """About `runs` target runs in each of the caps, with nothing timed."""
    whole = problem().target
    hours = runs * run_flops(whole) / SPEED / 3600
    values = {"usd": 2.0 * hours, "hours": hours, "flops": runs * run_flops(whole)}
    cost = CostModel(usd_per_hour=2.0, flops_per_second=speed)
    return Problem(target=whole, budget=Budget(**{k: values[k] for k in caps}), cost=cost)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "grid"])
@pytest.mark.parametrize("caps", CAPS, ids="+".join)
def test_a_plan_before_anything_was_timed_fits_every_cap(name: str, caps: tuple[str, ...]) -> None:
    posed = capped(caps, 40.0 if name == "hyperband" else 4.0)
    stages = load(name)().plan(History(problem=posed))
    total = sum((s.cost for s in stages[1:]), stages[0].cost)
    assert total.flops > 0 and total.usd > 0 and posed.budget.allows(total)
    assert load(name)().shapes(History(problem=posed))


def test_the_caps_agree_where_they_are_worth_the_same() -> None:
    plans = [
        [to_dict(replace(s, cost=s.cost * 0)) for s in load("transfer")().plan(History(problem=capped(c, 0.5)))[:-1]]
        for c in CAPS
    ]
    assert len(plans[0]) > 1 and all(plan == plans[0] for plan in plans)


@pytest.mark.parametrize("caps", CAPS, ids="+".join)
def test_a_search_keeps_every_cap(caps: tuple[str, ...]) -> None:
    posed = capped(caps, 0.25)
    session = play(Session(strategy=load("transfer")(), problem=posed), World())
    assert len(session.history.finished) >= 4 and posed.budget.allows(session.history.spent)


def test_hours_that_nobody_can_forecast_are_weighed_by_flops() -> None:
    posed = capped(("hours",), 0.5, speed=0.0)
    stages = load("transfer")().plan(History(problem=posed))
    assert stages and sum(s.cost.flops for s in stages) <= run_flops(posed.target)


def test_a_cap_too_small_says_what_two_trials_need() -> None:
    with pytest.raises(UserError, match=r"need \$\d+\.\d+ or more"):
        load("transfer")().plan(History(problem=capped(("usd",), 1e-5)))
