"""The promise about money: a thousand searches on simulated machines, none over any cap by any amount."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import pytest
from machines import Machine
from worlds import World, small_target

from search.budget import Budget, CostModel, Spending, Timing, shape_key
from search.execution.purse import Purse
from search.execution.session import Session
from search.execution.store import owed
from search.records import Problem, Trial
from search.strategies import STRATEGIES
from search.strategies.hybrid import Hybrid
from search.strategies.hyperband import Hyperband
from search.strategies.transfer import Transfer
from search.strategy import Strategy
from trainer.architecture.counts import run_flops
from trainer.errors import UserError

COUNTS = {
    "greedy": 210, "literature": 200, "early-stopping": 200, "grid": 150, "mutransfer": 100, "hyperband": 70,
    "data-scaling": 40, "model-scaling": 24, "hybrid": 4, "transfer": 3,
}  # fmt: skip
"""Searches by strategy, fewer where asking takes long."""
CHEAP = Hyperband(units=9, focus=0.0)
SETTINGS: dict[str, Strategy] = {
    "hyperband": Hyperband(units=27), "hybrid": Hybrid(sizes=((1, 64, 1), (2, 128, 2)), each=CHEAP),
    "transfer": Transfer(max_trials=8),
}  # fmt: skip
TARGET = small_target()


@dataclass(frozen=True)
class Case:
    """A search that a machine is to make, drawn from a seed."""

    session: Session
    rng: random.Random
    cap: Budget
    machine: dict[str, float]


def draw(name: str, seed: int) -> Case:
    """1 to 8 slots, packs, truth 1 to 3 times the forecast, tiny and ample budgets of any kind, faults or none."""
    rng = random.Random(f"{name}{seed}")
    slots, pack = rng.randint(1, 8), rng.choice([1, 1, 1, 4])
    step = 10 ** rng.uniform(-2.3, 0.3)
    timing = Timing(step_seconds=step, eval_seconds=step * rng.uniform(1, 30), startup_seconds=0.1, pack=pack)
    price, launch = rng.choice([0.5, 2.0, 40.0]), rng.uniform(0.5, 8.0)
    runs = 10 ** rng.uniform(-1.7, 0.5) * (60 if name == "grid" else 1)
    hours = runs * TARGET.steps * step / 3600
    kinds = rng.choice(["usd", "hours", "flops", "usd hours", "usd flops", "hours flops", "usd hours flops"])
    caps = {"usd": hours * price, "hours": hours, "flops": runs * run_flops(TARGET)}
    cap = Budget(**{k: v * rng.uniform(0.7, 1.5) for k, v in caps.items() if k in kinds})
    held = Spending(launch * slots, 0.0, launch * slots / 3600 * price)
    problem = Problem(
        target=TARGET, budget=replace(cap, reserve=0.1, held=held), seed=seed,
        cost=CostModel(usd_per_hour=price, timings={shape_key(TARGET): timing}),
    )  # fmt: skip
    session = Session(SETTINGS.get(name) or STRATEGIES[name](), problem, cap=cap, launch_seconds=launch)
    faulty = rng.random() < 0.5
    machine = {
        "slots": slots, "slower": rng.choice([1.0, 1.5, 3.0]), "launch": launch * rng.uniform(0.8, 3.0),
        "deaths": rng.choice([0.05, 0.3]) if faulty else 0.0, "broken": 0.05 if faulty else 0.0,
    }  # fmt: skip
    return Case(session, rng, cap, machine)


def begin(case: Case, session: Session, now: float = 0.0) -> Machine:
    return Machine(session, case.rng, world=World(cliff=1.5), now=now, **case.machine)  # type: ignore[arg-type]


def again(case: Case, trials: list[Trial], cap: Budget) -> Session:
    """The session of a search that goes on from its history."""
    old = case.session
    return Session(old.strategy, old.problem, list(trials), cap=cap, launch_seconds=old.launch_seconds)


def check(truth: Spending, session: Session, cap: Budget) -> None:
    spent = sum((t.spending for t in session.trials), Spending())
    assert cap.allows(spent), f"{cap.share(spent):.4f} of the budget is in the books"
    assert cap.allows(truth), f"{cap.share(truth):.4f} of the budget was really spent"
    assert truth.seconds <= spent.seconds * (1 + 1e-9) + 1e-6, "a part was not billed"
    assert truth.flops <= spent.flops * (1 + 1e-9)


def simulate(name: str, seed: int) -> int:
    """One search, in a third of the cases with interruptions, kills and top-ups between; how many trials it made."""
    case = draw(name, seed)
    try:
        case.session.strategy.plan(case.session.history)
    except UserError:  # too small, which is told at once
        return 0
    session, cap, truth, now = case.session, case.cap, Spending(), 0.0
    for _ in range(case.rng.choice([0, 0, 1, 3])):
        machine, stop = begin(case, session, now), now + case.rng.expovariate(1 / 60)
        if case.rng.random() < 0.5:
            over = machine.run(until=stop)
            trials = machine.interrupt()
        else:
            over = machine.last_journal(stop) or machine.run(until=stop)
            trials, journal = machine.kill()
            trials = [*trials, *owed(journal, trials)]
        truth, now = truth + machine.truth, machine.now + 10
        if case.rng.random() < 0.3 and session.strategy.grows:
            cap = replace(cap, **{k: 1.5 * v for k, v in vars(cap).items() if k in ("usd", "hours", "flops") and v})
        session = again(case, trials, cap)
        check(truth, session, cap)
        if over:
            break
    machine = begin(case, session, now)
    assert machine.run()
    check(truth + machine.truth, session, cap)
    assert not session.running and not session.purse.holds and not session.purse.lost
    return len([t for t in session.trials if not t.aside])


@pytest.mark.parametrize("name", COUNTS)
def test_no_search_is_ever_over_its_budget(name: str) -> None:
    made = [simulate(name, seed) for seed in range(COUNTS[name])]
    assert sum(map(bool, made)) >= len(made) / 5, "most of these budgets are worth something"


def test_a_thousand_searches_of_every_strategy() -> None:
    assert sum(COUNTS.values()) >= 1000 and set(COUNTS) == set(STRATEGIES)


def test_the_money_is_used() -> None:
    """Never over, but not by never starting: where trials take what was forecast, what was planned is done."""
    done = []
    for seed in range(40):
        case = draw("early-stopping", seed)
        case.machine.update(slower=1.0, deaths=0.0, broken=0.0, launch=case.session.launch_seconds)
        try:
            planned = case.session.strategy.plan(case.session.history)
        except UserError:
            continue
        machine = begin(case, case.session)
        machine.run()
        done.append(len(case.session.trials) / sum(s.trials for s in planned))
    assert len(done) > 10 and sum(done) / len(done) > 0.9, done


def test_a_purse_gives_no_more_than_it_has() -> None:
    purse = Purse(Budget(usd=1.0), usd_per_hour=36.0, spent=Spending(0.0, 0.0, 0.4))
    assert purse.free_seconds() == pytest.approx(60)
    assert purse.hold("a", purse.bill(40)) and not purse.hold("b", purse.bill(30)) and purse.hold("b", purse.bill(15))
    purse.extend("a", 100.0)
    assert purse.holds["a"].seconds == pytest.approx(45) and purse.free_seconds() == pytest.approx(0, abs=1e-9)
    purse.pool("b", ["a"], 20)
    assert purse.holds["b"].seconds == pytest.approx(20) and purse.holds["a"].seconds == pytest.approx(40)
    purse.lose("b", purse.bill(20))
    purse.pay("a", purse.bill(10))
    assert purse.free_seconds() == pytest.approx(30)
    purse.pay("b", purse.bill(20))
    assert purse.free_seconds() == pytest.approx(30) and not purse.lost


def test_budgets_keep_a_reserve_for_plans_alone() -> None:
    budget = Budget(usd=10.0, hours=2.0, flops=1e15, reserve=0.1, held=Spending(720, 0.0, 1.0))
    assert budget.share(Spending(0, 0, 8.1)) == pytest.approx(1) and budget.whole.share(Spending(0, 0, 8.1)) < 0.82
    assert budget.share(Spending(5832, 0, 0)) == pytest.approx(1) and budget.share(Spending(0, 1e15, 0)) == 1
    assert budget.needed(Spending(0, 1.2341e15, 8.1)) == "$10.0, 0.200 device-hours, 1.24e+15 FLOPs"
    assert budget.part(Spending(0, 0, 0.1), 2).usd == pytest.approx(4.0)
    assert budget.holds(Budget(usd=10, hours=1.5, flops=1e15)) and not budget.holds(Budget(usd=11))
    assert budget.holds(Budget(usd=9, hours=2, flops=1e15)) and not Budget(usd=9).holds(Budget(hours=2))
    assert (
        Budget(usd=9.0).seconds_left(Spending(0, 0, 8.0), 2.0) == 1800
        and Budget(flops=1).seconds_left(Spending(), 2.0) == math.inf
    )
