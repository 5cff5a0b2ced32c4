"""Hyperband's table, plan and promotions, without training."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.budget import Budget, CostModel, Spending
from search.evidence.answers import recommend_from_history
from search.evidence.edges import focused
from search.execution.session import Session
from search.records import History, Problem, Proposal, Trial
from search.strategies.hyperband import SHORTER, Hyperband, brackets
from search.strategy import DONE
from trainer.architecture.counts import run_flops
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.presets import laptop, preset
from trainer.schedule import decay_start, warmup_steps

TARGET = preset("laptop")
BRIEF = replace(TARGET, warmup=TARGET.batch)
"""Its warmup fits into every rung."""


def problem(runs: float = 1.0, target: RunConfig = TARGET, **budget: float) -> Problem:
    cap = Budget(**budget) if budget else Budget(flops=runs * run_flops(target))
    return Problem(target=target, budget=cap, cost=CostModel())


def play(session: Session, best: float = 0.006, slots: int = 2) -> list[Proposal]:
    """Answer every proposal by a valley in ln lr that gets deeper with the horizon; newest first."""
    asked: list[Proposal] = []
    while (new := session.next(slots - len(session.running))) is not DONE or session.running:
        asked += new if isinstance(new, list) else []
        p = list(session.running.values())[-1]
        loss = 8 - 0.5 * math.log10(p.horizon) + 0.1 * math.log(p.lr / best) ** 2
        cost = session.forecast(p)
        trunk = min(decay_start(p.run) * p.run.batch, p.horizon) if p.keep else None
        outcome = {"status": "finished", "loss": loss, "flops": cost.flops, "trunk": trunk}
        session.finish(session.billed(p, outcome, cost.seconds))
    return asked


def test_table_of_the_paper_for_555() -> None:
    """All 21 entries: n_i = floor(n_s / 3^i), r_i = floor(555 x 3^(i - s)), not rounded, not cumulated."""
    assert brackets(555, 3) == [
        [(243, 2), (81, 6), (27, 20), (9, 61), (3, 185), (1, 555)],
        [(98, 6), (32, 20), (10, 61), (3, 185), (1, 555)],
        [(41, 20), (13, 61), (4, 185), (1, 555)],
        [(18, 61), (6, 185), (2, 555)],
        [(9, 185), (3, 555)],
        [(6, 555)],
    ]
    assert sum(n * r for rungs in brackets(555, 3) for n, r in rungs) == 19_005  # 34.24 R from scratch


@given(st.integers(1, 2000), st.integers(2, 5))
def test_table_is_well_formed(resource: int, eta: int) -> None:
    table = brackets(resource, eta)
    assert len(table) == math.floor(math.log(resource) / math.log(eta) + 1e-9) + 1
    for rungs in table:
        assert rungs[-1][1] == resource and all(r >= 1 and n >= 1 for n, r in rungs)
        assert all(a > b for (a, _), (b, _) in pairwise(rungs))
        assert all(a < b for (_, a), (_, b) in pairwise(rungs))


@pytest.mark.parametrize("runs", [0.05, 0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("cooldown", [0.0, 0.2])
def test_plan_is_the_largest_that_fits_and_is_what_is_spent(runs: float, cooldown: float) -> None:
    strategy, asked_for = Hyperband(cooldown=cooldown), problem(runs)
    plan = sum((s.cost for s in strategy.plan(History(problem=asked_for))), Spending())
    assert asked_for.budget.allows(plan)
    settled = strategy._settled(History(problem=asked_for))
    resource, units = settled.max_resource or 0, settled.units
    shortest = round(SHORTER * strategy.units)
    assert resource <= units <= shortest
    larger = [replace(strategy, max_resource=resource + 1, units=shortest)] * (resource < strategy.units)
    longer = [replace(settled, units=units - 1)] * (resource < units)
    for more in (*larger, *longer):
        stages = more.plan(History(problem=asked_for))
        spare = stages[-1].cost * (1 / stages[-1].trials) * (stages[-1].trials > 1)  # of the longest
        assert not asked_for.budget.allows(sum((s.cost for s in stages), spare))
    session = Session(strategy=strategy, problem=asked_for)
    play(session)
    assert asked_for.budget.allows(session.history.spent)
    planned = [t for t in session.trials if t.tags["stage"] != "beyond the edge"]
    assert sum((t.spending for t in planned), Spending()).flops == pytest.approx(plan.flops)


def test_promotes_the_best_from_their_trunks() -> None:
    session = Session(strategy=Hyperband(), problem=problem(3.0, BRIEF))
    asked = play(session)
    history = session.history
    promoted = [p for p in asked if p.parent]
    assert promoted
    for p in promoted:
        parent = history.get(p.parent or "")
        assert parent is not None and p.start == parent.trunk and p.lr == parent.lr
        rung = [
            t for t in history if (t.tags["bracket"], t.tags["rung"]) == (parent.tags["bracket"], parent.tags["rung"])
        ]
        better = [t for t in rung if (t.loss or 9) < (parent.loss or 9)]
        ids = {q.parent for q in promoted}
        assert all(t.id in ids for t in better)
        # The trunk that is continued is the beginning of the longer run.
        assert warmup_steps(p.run) == warmup_steps(parent.run) < decay_start(parent.run) <= decay_start(p.run)


def test_what_had_less_warmup_starts_again_with_its_own() -> None:
    """Of the target's warmup a rung has what fits into two fifths of it, and nothing longer goes on from less."""
    session = Session(strategy=Hyperband(), problem=problem(3.0, replace(TARGET, warmup=TARGET.tokens // 20)))
    play(session)
    history = session.history
    again = [t for t in history if t.tags["rung"] and t.parent is None]
    assert again
    for t in history:
        assert t.run.warmup == min(TARGET.tokens // 20, round(0.4 * t.horizon))
        parent = history.get(t.parent) if t.parent else None
        assert parent is None or parent.run.warmup == t.run.warmup


def test_a_budget_between_two_tables_buys_longer_runs() -> None:
    """R = 9 needs a third bracket and 2.5 times the money of R = 8."""
    at = [History(problem=problem(runs)) for runs in (0.4, 0.7)]
    few, more = (
        {s.trials: s.tokens / s.trials for s in Hyperband().plan(h) if s.name.endswith("1 rung 2")} for h in at
    )
    assert few.keys() == more.keys() == {1} and more[1] > 1.3 * few[1]


@pytest.mark.parametrize("timed", [0.0, 0.005, 0.02])
def test_the_plain_command_s_plan_does_not_hang_on_how_many_steps_were_timed(timed: float) -> None:
    plan = Hyperband().plan(History(problem=problem(1.0 - timed)))
    assert sum(s.trials for s in plan) == 22


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp"])
def test_decisions_depend_on_the_history_alone(sampler: str) -> None:
    strategy = Hyperband(sampler=sampler, focus=0 if sampler == "random" else 4)  # type: ignore[arg-type]
    one, two = Session(strategy=strategy, problem=problem()), Session(strategy=strategy, problem=problem())
    play(one, slots=1)
    play(two, slots=3)
    assert {t.id: t.run for t in one.trials} == {t.id: t.run for t in two.trials}
    for k in (0, 5, 11, len(one.trials) - 1):  # cut anywhere and go on
        cut = Session(strategy=strategy, problem=problem(), trials=one.trials[:k])
        play(cut)
        assert {t.id: t.run for t in cut.trials} == {t.id: t.run for t in one.trials}


def test_no_trunk_is_dropped_that_is_needed() -> None:
    strategy = Hyperband()
    session = Session(strategy=strategy, problem=problem())
    kept: set[str] = set()
    while (new := session.next(2 - len(session.running))) is not DONE or session.running:
        for p in new if isinstance(new, list) else []:
            assert p.parent is None or p.parent in kept
        p = next(iter(session.running.values()))
        kept |= {p.id} if p.keep else set()
        outcome = {"status": "finished", "loss": 5 + p.lr, "trunk": 1 if p.keep else None}
        session.finish(session.billed(p, outcome, 1.0))
        still = strategy.keeps(session.history)
        kept &= still | {p.id for p in session.running.values()}
    assert not kept


def test_survives_diverged_and_failed_trials() -> None:
    session = Session(strategy=Hyperband(), problem=problem())
    count = 0
    while (new := session.next(1)) is not DONE:
        assert isinstance(new, list)
        p, count = new[0], count + 1
        bad = p.lr > 5e-3 or count == 2
        outcome = {
            "status": "failed" if count == 2 else "diverged" if bad else "finished",
            "loss": None if bad else 5 - p.lr,
        }
        session.finish(session.billed(p, outcome, 1.0))
    answer = session.strategy.recommend(session.history)
    assert answer.lr is not None and answer.lr < 1e-2 and answer.max_stable_lr is not None


def test_all_diverged_and_empty_recommend_nothing_and_say_why() -> None:
    session = Session(strategy=Hyperband(), problem=problem())
    assert session.strategy.recommend(session.history).reasons == ("no trial has finished yet",)
    while (new := session.next(1)) is not DONE:
        assert isinstance(new, list)
        session.finish(session.billed(new[0], {"status": "diverged"}, 1.0))
    answer = session.strategy.recommend(session.history)
    assert answer.lr is None and "diverged" in answer.reasons[0] and "--lr-range" in answer.reasons[0]


def test_too_small_a_budget_says_the_smallest() -> None:
    with pytest.raises(UserError, match=r"too small for one trial.*Raise the budget to 1\.\d+e\+11 FLOPs"):
        Hyperband().plan(History(problem=problem(flops=1e10)))


def test_focus_follows_the_valley_and_walks_beyond_an_edge() -> None:
    valley = [(lr, 3 + math.log(lr / 4e-3) ** 2) for lr in (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)]
    low, high = focused((1e-4, 1e-1), valley, 4)
    assert low == pytest.approx(1e-3, rel=0.3) and high == pytest.approx(1.6e-2, rel=0.3)
    assert focused((1e-4, 1e-1), valley, 0) == (1e-4, 1e-1)
    low, high = focused((1e-3, 1e-1), valley[2:], 4)
    assert low < 1e-3 < high < 1e-2
    low, high = focused((1e-4, 1e-2), valley[:3], 4)
    assert high > 1e-2
    low, high = focused((1e-3, 1e-1), [(1e-3, None), (1e-2, None)], 4)
    assert high <= 1e-3


def test_trials_survive_json() -> None:
    trial = Trial(id="a", run=replace(TARGET, lr=1e-3), horizon=5, status="finished", loss=1.0, curve=((5, 1.0),))
    assert Trial.from_json(trial.to_json()) == trial


@pytest.mark.parametrize(("lrs", "told"), [((1e-3, 2.3e-3, 4.7e-3, 9e-3), True), ((3e-3, 3.3e-3, 3.6e-3), False)])
def test_it_says_why_the_answer_is_not_simply_the_best_tried(lrs: tuple[float, ...], told: bool) -> None:
    target = replace(laptop(), lr=None)
    trials = [
        Trial(
            id=f"t{k}", run=replace(target, lr=lr), horizon=target.tokens, status="finished",
            loss=3 + 0.1 * math.log(lr / 3.3e-3) ** 2 * (1 + max(0.0, math.log(lr / 3.3e-3))),
        )
        for k, lr in enumerate(lrs)
    ]  # fmt: skip
    problem = Problem(target=target, budget=Budget(flops=1e30), cost=CostModel())
    answer = recommend_from_history(History(problem=problem, trials=trials))
    said = [reason for reason in answer.reasons if reason.startswith("not simply 0.00")]
    assert bool(said) == told, answer
    if told:
        assert "floor at 0.003" in said[0] and "are taken off because too high an lr costs more" in said[0]
