"""The transfer strategy on worlds with a known answer."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from worlds import World as Valley
from worlds import play

from scaling.published import weight_decay
from search.budget import Budget, CostModel
from search.execution.session import Session
from search.records import History, Problem, Proposal, Trial
from search.replay.problems import problem_for
from search.replay.table import Cell, Table
from search.replay.world import World, replay
from search.shapes.ladder import model_of
from search.shapes.menu import point
from search.strategies.transfer import Transfer
from search.strategy import Done
from search.transfer.choosing import longer
from trainer.architecture.counts import parameters, run_flops
from trainer.config import RunConfig
from trainer.errors import UserError
from trainer.presets import preset


def best_lr(n: float, d: float, b: float) -> float:
    """A law unlike any published one: 1 % at 1M parameters."""
    return 1e-2 * (n / 1e6) ** -0.3 * (d / 2e7) ** 0.1 * (b / 65536) ** 0.2


def best_batch(d: float) -> float:
    return 32768 * (d / 2e7) ** 0.5


def loss_of(run: RunConfig, lr: float) -> float:
    n, d, b = np.exp(point(run))
    z = math.log(lr / best_lr(n, d, b))
    wall = 0.01 * max(z - 0.5, 0) ** 3
    flat = 0.003 * math.log(b / best_batch(d)) ** 2
    return (1.7 + (1e5 / n) ** 0.2 + (1e6 / d) ** 0.3) * (1 + 0.006 * z * z + wall + flat)


@pytest.fixture(scope="module")
def world() -> World:
    cells, models = {}, {}
    for n in (300_000, 1_000_000, 3_000_000):
        models[n] = model_of(n)
        for d in (6_000_000, 20_000_000, 60_000_000):
            for b in (16384, 65536, 262144):
                run = RunConfig(model=models[n], tokens=d, batch=b)
                x = np.arange(math.log(3e-4), math.log(0.3), 0.3466)
                loss = np.array([loss_of(run, math.exp(v)) for v in x])
                cells[n, d, b] = Cell(x, np.where(loss > 6, math.inf, loss))
    return World(Table("planted", cells, models), noise=5e-4)


def problem(world: World, share: float) -> Problem:
    return problem_for(world, world.configuration(3_000_000, 60_000_000, 65536), share=share)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_finds_the_planted_optimum_of_a_larger_model(world: World, share: float) -> None:
    posed = problem(world, share)
    history = replay(Transfer(), posed, world)
    answer = Transfer().recommend(history)
    true = best_lr(3e6, 6e7, 65536)
    assert answer.lr is not None and abs(math.log(answer.lr / true)) < 0.5
    assert answer.interval90 is not None and answer.interval90[0] < true < answer.interval90[1]
    assert posed.budget.allows(history.spent) and not [t for t in history if t.status == "failed"]
    exact = loss_of(posed.target, answer.lr) / loss_of(posed.target, true) - 1
    assert exact < 0.002 and answer.expected_regret is not None and answer.worst_regret is not None
    assert 0 < answer.expected_regret < answer.worst_regret
    assert "batch-conditional" in answer.law


def test_more_money_narrows_the_answer_and_worthless_runs_are_not_made(world: World) -> None:
    few, many = (Transfer().recommend(replay(Transfer(), problem(world, s), world)) for s in (0.1, 1))
    assert many.details["sd"] < few.details["sd"]
    spent = [replay(Transfer(uses=uses), problem(world, 3.0), world).spent.flops for uses in (1.0, 100.0, math.inf)]
    whole = 3 * run_flops(problem(world, 1.0).target, 60_000_000)
    assert spent[0] < spent[1] < spent[2] <= whole


def test_same_history_same_decision_and_one_slot_or_many(world: World) -> None:
    posed = problem(world, 0.5)
    history = replay(Transfer(), posed, world, slots=3)
    for cut in (0, 1, 2, len(history) // 2):
        past = History(problem=posed, trials=history.trials[:cut])
        again = pickle.loads(pickle.dumps(past))
        first, second = Transfer().ask(past, 4), Transfer().ask(again, 4)
        assert not isinstance(first, Done) and first == second
        assert len({p.id for p in first}) == len(first) <= 4
        assert not {p.id for p in first} & past.known


def test_a_round_ends_before_the_next_begins(world: World) -> None:
    posed = problem(world, 0.5)
    first = Transfer().ask(History(problem=posed), 9)
    assert not isinstance(first, Done) and 4 <= len(first) <= 6
    part = History(problem=posed, running=tuple(first[:2]))
    assert Transfer().ask(part, 9) == first[2:]
    assert Transfer().ask(History(problem=posed, running=tuple(first)), 9) == []
    assert Transfer().ask(History(problem=posed), 0) == []
    one, many = (replay(Transfer(), posed, world, slots=s) for s in (1, 7))
    assert one.trials == many.trials


def test_batch_is_searched_when_asked(world: World) -> None:
    posed = problem(world, 2.0)
    wrong = replace(posed, target=replace(posed.target, batch=262144))
    strategy = Transfer(search="lr,batch", uses=math.inf)
    history = replay(strategy, wrong, world)
    answer = strategy.recommend(history)
    assert len({t.run.batch for t in history}) > 1
    assert answer.batch is not None and answer.lr is not None
    assert abs(math.log(answer.batch / best_batch(6e7))) < 0.9
    assert Transfer().recommend(history).batch is None


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_free_choice_makes_whole_smaller_runs(schedule: str) -> None:
    target = replace(preset("laptop"), schedule=schedule)
    flops = run_flops(target, target.tokens)
    posed = Problem(target=target, budget=Budget(flops=flops), cost=CostModel())
    plan = Transfer().plan(History(problem=posed))
    assert plan and sum(s.cost.flops for s in plan) <= flops * (1 + 1e-9)
    asked = Transfer().ask(History(problem=posed), 4)
    assert not isinstance(asked, Done) and asked
    for p in asked:
        assert p.horizon == p.run.tokens and run_flops(p.run, p.horizon) < flops
        assert p.run.warmup == min(target.warmup, round(0.4 * p.run.tokens))


def test_no_answer_without_evidence(world: World) -> None:
    posed = problem(world, 0.5)
    none = Transfer().recommend(History(problem=posed))
    assert none.lr is None and "no trial" in none.reasons[0]
    run = replace(posed.proxies[0], lr=0.1)  # type: ignore[index]
    burnt = [
        Trial(id=f"{i}", run=replace(run, lr=0.1 / (i + 1)), horizon=run.tokens, status="diverged") for i in range(3)
    ]
    lost = Transfer().recommend(History(problem=posed, trials=tuple(burnt)))
    assert lost.lr is None and "diverged" in lost.reasons[0]
    single = Trial(id="0", run=run, horizon=run.tokens, status="finished", loss=3.0)
    assert Transfer().recommend(History(problem=posed, trials=(single,))).lr is None


def test_failing_cells_are_left_alone(world: World) -> None:
    posed = problem(world, 0.5)
    trials: list[Trial] = []
    for _ in range(200):
        asked = Transfer().ask(History(problem=posed, trials=tuple(trials)), 4)
        if isinstance(asked, Done):
            break
        trials += [_failed(p) for p in asked]
    assert isinstance(asked, Done) and len({t.id for t in trials}) == len(trials)


def _failed(p: Proposal) -> Trial:
    return Trial(id=p.id, run=p.run, horizon=p.horizon, status="failed", error="no memory")


def test_a_budget_for_nothing_is_said(world: World) -> None:
    with pytest.raises(UserError, match="does not hold"):
        Transfer().plan(History(problem=problem(world, 1e-6)))
    assert isinstance(Transfer().ask(History(problem=problem(world, 1e-6)), 2), Done)


def free_world(target: RunConfig, best_decay: float, best_warmup: float) -> Callable[[Proposal], float]:
    """Losses with a best weight decay at the target (elsewhere as Power Lines carries it) and a best warmup."""

    def loss(p: Proposal) -> float:
        n, d, b = np.exp(point(p.run))
        z = math.log(p.lr / best_lr(n, d, b))
        n0, d0, b0 = np.exp(point(target))
        whole = replace(target, lr=best_lr(n0, d0, b0))
        laws = [weight_decay(parameters(r.model).total, r.tokens, r.batch, r.lr or 0.0) for r in (p.run, whole)]
        wd = math.log(p.run.weight_decay / (best_decay * laws[0] / laws[1]))
        warm = math.log(p.run.warmup / target.tokens / best_warmup)
        return (1.7 + (1e5 / n) ** 0.2 + (1e6 / d) ** 0.3) * (1 + 0.006 * z * z + 0.006 * wd * wd + 0.006 * warm * warm)

    return loss


@pytest.mark.parametrize(("second", "planted"), [("weight_decay", 0.3), ("weight_decay", 0.02), ("warmup", 0.09)])
def test_weight_decay_and_warmup_are_searched_when_asked(second: str, planted: float) -> None:
    target = preset("laptop")
    own = {"weight_decay": target.weight_decay, "warmup": target.warmup / target.tokens}
    loss = free_world(
        target, **{f"best_{k.removeprefix('weight_')}": planted if k == second else v for k, v in own.items()}
    )
    posed = Problem(target=target, budget=Budget(flops=run_flops(target)), cost=CostModel())
    strategy = Transfer(search=f"lr,{second}")  # type: ignore[arg-type]
    session = Session(strategy=strategy, problem=posed)
    while not isinstance(session.next(3 - len(session.running)), Done):
        p = next(iter(session.running.values()))
        outcome = {"status": "finished", "loss": loss(p), "flops": posed.cost.forecast(p.run, p.horizon).flops}
        session.finish(session.billed(p, outcome, 0.0))
    answer = strategy.recommend(session.history)
    swept = [t for t in session.trials if t.tags.get("setting") == second]
    assert 5 <= len(swept) <= 7 and len({t.lr for t in swept}) == 1 and len(session.trials) > len(swept) + 4
    assert posed.budget.allows(session.history.spent)
    assert answer.lr is not None
    here = replace(target, lr=answer.lr)
    if second == "weight_decay":
        # The lr was found at the target's own decay, and the two pull at each other: their product is what is found.
        assert answer.weight_decay is not None
        whole = best_lr(*np.exp(point(target)))
        assert abs(math.log(answer.weight_decay * answer.lr / (planted * whole))) < 0.3
        better = replace(here, weight_decay=answer.weight_decay)
    else:
        assert answer.warmup is not None and abs(math.log(answer.warmup / target.tokens / planted)) < 0.3
        better = replace(here, warmup=answer.warmup)
    losses = [loss(Proposal(id="x", run=run, horizon=run.tokens)) for run in (here, better)]
    assert losses[1] < losses[0]
    assert any(second in reason and "carried over" in reason for reason in answer.reasons)
    stages = strategy.plan(History(problem=posed))
    assert sum(s.cost.flops for s in stages) <= posed.budget.flops * 1.001 and second.replace("_", " ") in {
        s.name for s in stages
    }  # type: ignore[operator]
    flat = [replace(t, loss=3.0) if t in swept else t for t in session.trials]
    kept = strategy.recommend(History(problem=posed, trials=tuple(flat)))
    assert kept.weight_decay is kept.warmup is None and any("is kept" in r for r in kept.reasons)
    alone = strategy.recommend(History(problem=posed, trials=tuple(t for t in session.trials if t not in swept)))
    assert any("was not searched" in r for r in alone.reasons) and alone.lr == pytest.approx(answer.lr)


def test_a_wsd_run_goes_on_from_the_trunk_of_a_shorter_one() -> None:
    target = preset("laptop")
    assert target.schedule == "wsd"
    target = replace(target, warmup=target.tokens // 100)  # it fits into a sixteenth of the run
    posed = Problem(target=target, budget=Budget(flops=2 * run_flops(target)), cost=CostModel())
    session = play(Session(strategy=Transfer(), problem=posed), Valley())
    continued = [t for t in session.trials if t.parent]
    assert continued
    for t in continued:
        parent = session.history.get(t.parent or "")
        assert parent is not None and parent.trunk == t.start and parent.lr == t.lr and longer(parent.run, t.run)
        assert 0 < t.start < t.horizon and t.run.warmup == parent.run.warmup and t.run.seed == parent.run.seed
    whole = sum(posed.cost.forecast(t.run, t.horizon).flops for t in session.trials)
    assert session.history.spent.flops < whole
    for cut in (3, len(session.trials) // 2):
        past = History(problem=posed, trials=tuple(session.trials[:cut]))
        assert Transfer().ask(past, 9) == Transfer().ask(pickle.loads(pickle.dumps(past)), 9)
    for strategy, schedule in ((Transfer(trunks=False), "wsd"), (Transfer(), "cosine")):
        other = replace(posed, target=replace(target, schedule=schedule))
        plain = play(Session(strategy=strategy, problem=other), Valley())
        assert not [t for t in plain.trials if t.parent or t.trunk]
