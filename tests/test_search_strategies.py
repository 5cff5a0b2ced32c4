"""One contract for every strategy: pytest tests/test_search_strategies.py"""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import pytest
from worlds import World, play, problem, small_target

from search.budget import Spending
from search.execution.session import Session
from search.records import History, Trial
from search.strategies import STRATEGIES, load
from search.strategies.data_scaling import DataScaling
from search.strategies.early_stopping import EarlyStopping
from search.strategies.greedy import Greedy
from search.strategies.hybrid import Hybrid
from search.strategies.hyperband import Hyperband
from search.strategies.literature import Literature
from search.strategies.model_scaling import ModelScaling
from search.strategy import Done, Strategy
from trainer.errors import UserError
from trainer.presets import laptop

RUNS = {"grid": 25.0}  # target runs a strategy needs; 1 for all others
FAST = Hyperband(units=27, sampler="qmc")  # tpe and gp fit a model at every question
SETTINGS: dict[str, Strategy] = {"hyperband": FAST, "hybrid": Hybrid(each=FAST)}


def make(name: str) -> Strategy:
    return SETTINGS.get(name) or STRATEGIES[name]()


@pytest.fixture(params=sorted(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def strategy(name: str) -> Strategy:
    return make(name)


def begin(name: str, **kwargs: object) -> Session:
    return Session(make(name), problem(runs=RUNS.get(name, 1.0), **kwargs))  # type: ignore[arg-type]


def answer(session: Session) -> dict[str, object]:
    return vars(session.strategy.recommend(session.history))


@pytest.mark.parametrize("slots", [1, 3, 50])
def test_a_search_ends_within_its_budget_and_answers(name: str, slots: int) -> None:
    session = play(begin(name), World(), slots)
    plan = session.strategy.plan(History(problem=session.problem))
    planned = sum((s.cost for s in plan), Spending())
    # Hyperband's trials beyond an edge come on top of its plan, where the budget still holds them.
    foreseen = [t.spending for t in session.trials if not t.tags.get("stage", "").endswith("beyond the edge")]
    if name != "transfer":  # its plan is what would be run if every trial ended as expected
        assert sum(foreseen, Spending()).flops <= planned.flops * (1 + 1e-9)
    assert session.problem.budget.allows(planned)
    assert session.problem.budget.allows(session.history.spent) and not session.running
    assert len({t.id for t in session.trials}) == len(session.trials) > 0
    found = session.strategy.recommend(session.history)
    assert found.lr is not None and found.interval50 and found.interval90 and found.law
    low, high = found.interval90
    assert low < found.interval50[0] < found.interval50[1] < high and low < found.lr < high
    assert set(found.trials) <= {t.id for t in session.trials}
    finished, diverged = ([t.lr for t in session.history if t.status == s] for s in ("finished", "diverged"))
    assert found.undiverged_lr == (None if diverged else max(finished))
    assert not diverged or found.max_stable_lr == max(lr for lr in finished if lr < min(diverged))
    best = World().best(session.problem.target, session.problem.target.tokens)
    assert math.log(low) < best < math.log(high), "the planted optimum lies in the 90 % interval"
    json.dumps(found.details)


def test_caps_on_time_and_money_hold_though_trials_are_slow(name: str) -> None:
    """Two trials run at once, so what they take over their forecast may be exceeded once for each."""
    session = play(begin(name, timed=True), World(slowness=1.3), 2)
    late = sum(sorted((t.usd * 0.3 / 1.3 for t in session.trials), reverse=True)[:2])
    spent, budget = session.history.spent, session.problem.budget
    assert budget.usd and budget.hours and len(session.trials) > 0
    assert spent.usd <= budget.usd + late and spent.seconds <= 3600 * (budget.hours + late / 2.0)
    quick = play(begin(name, timed=True), World(slowness=0.9), 2)
    assert budget.allows(quick.history.spent)


def test_the_same_history_gives_the_same_decisions(name: str) -> None:
    whole = play(begin(name), World(), 2)
    again = play(begin(name), World(), 2)
    assert whole.trials == again.trials and answer(whole) == answer(again)
    for cut in sorted({0, 1, 2, len(whole.trials) // 2, len(whole.trials) - 1}):
        resumed = begin(name)
        resumed.trials = [Trial.from_json(json.loads(json.dumps(t.to_json()))) for t in whole.trials[:cut]]
        resumed.strategy = pickle.loads(pickle.dumps(resumed.strategy))
        play(resumed, World(), 2)
        # What ran at the cut is gone and asked for anew, so an adaptive strategy may go another way from there.
        assert resumed.trials[:cut] == whole.trials[:cut]
        assert len({t.id for t in resumed.trials}) == len(resumed.trials)
        assert resumed.problem.budget.allows(resumed.history.spent)
        if cut == 0:
            assert answer(resumed) == answer(whole)


def test_one_slot_is_resumed_exactly_from_every_prefix(name: str) -> None:
    whole = play(begin(name), World(), 1)
    for cut in range(0, len(whole.trials), max(1, len(whole.trials) // 7)):
        resumed = begin(name)
        resumed.trials = list(whole.trials[:cut])
        play(resumed, World(), 1)
        assert resumed.trials == whole.trials


def test_ask_is_pure(name: str, strategy: Strategy) -> None:
    session = play(begin(name), World(), 2, until=3)
    history = session.history
    before = pickle.dumps(history)
    first, second = strategy.ask(history, 3), strategy.ask(history, 3)
    assert first == second and pickle.dumps(history) == before
    if not isinstance(first, Done):
        assert len(first) <= 3 and not {p.id for p in first} & history.known
    assert strategy.recommend(history) == strategy.recommend(history)
    assert strategy.keeps(history) <= {t.id for t in history}


def test_an_empty_history_recommends_nothing(strategy: Strategy) -> None:
    found = strategy.recommend(History(problem=problem()))
    assert found.lr is None and found.reasons and found.max_stable_lr is None


@pytest.mark.parametrize("world, word", [
    (World(cliff=-50), "diverged"),
    (World(fails=lambda p: True), "failed"),
], ids=["all diverge", "all fail"])  # fmt: skip
def test_disasters_end_without_a_recommendation(name: str, world: World, word: str) -> None:
    session = play(begin(name), world, 2)
    found = session.strategy.recommend(session.history)
    assert found.lr is None and any(word in r or "no trial" in r.lower() for r in found.reasons)
    assert session.problem.budget.allows(session.history.spent)


def test_some_failures_are_survived(name: str) -> None:
    session = play(begin(name), World(fails=lambda p: ord(p.id[-1]) % 4 == 3, cliff=1.0), 3)
    statuses = {t.status for t in session.trials}
    assert "finished" in statuses
    assert session.strategy.recommend(session.history).reasons is not None


def test_a_budget_for_nothing_is_one_sentence(name: str, strategy: Strategy) -> None:
    history = History(problem=problem(runs=1e-9))
    if name == "literature":  # needs no trial
        assert strategy.plan(history) == [] and isinstance(strategy.ask(history, 1), Done)
        assert strategy.recommend(history).lr is not None
        return
    with pytest.raises(UserError, match="budget"):
        strategy.plan(history)


def test_the_smallest_target_has_proxies_too(name: str) -> None:
    session = Session(make(name), problem(laptop(), runs=RUNS.get(name, 1.0)))
    play(session, World(), 4)
    assert session.strategy.recommend(session.history).lr is not None
    assert session.problem.budget.allows(session.history.spent)


def test_the_table_of_the_design() -> None:
    """The starter strategies' defaults."""
    rich = History(problem=problem(runs=1e3))
    assert (EarlyStopping().trials, EarlyStopping().fraction, EarlyStopping().centre) == (10, 0.1, 6e-4)
    first = Greedy().ask(rich, 9)
    assert not isinstance(first, Done) and len(first) == 1 and first[0].run.warmup == 0
    assert first[0].horizon == 10 * rich.problem.target.batch
    models = ModelScaling().ask(rich, 99)
    assert not isinstance(models, Done) and len(models) == 30
    assert [(p.run.model.depth, p.run.model.width, p.run.model.heads) for p in models[::10]] == [
        (1, 64, 1),
        (2, 128, 2),
        (3, 192, 3),
    ]
    assert {p.horizon for p in models} == {rich.problem.target.tokens}
    data = DataScaling().ask(rich, 99)
    assert not isinstance(data, Done)
    assert [p.run.steps for p in data] == [50] * 10 + [100] * 10 + [200] * 10
    assert {p.run.model for p in data} == {rich.problem.target.model}


def test_greedy_doubles_until_divergence_then_tries_fractions() -> None:
    session = play(begin("greedy"), World(), 2)
    lrs = [t.lr for t in session.trials]
    first = next(i for i, t in enumerate(session.trials) if t.status == "diverged")
    assert all(b == pytest.approx(2 * a) for a, b in zip(lrs[:first], lrs[1 : first + 1], strict=True))
    assert lrs[first + 1] == pytest.approx(0.75 * lrs[first])
    assert len(lrs) > first + 3


def test_an_optimum_beyond_the_range_is_followed() -> None:
    session = begin("model-scaling")
    session.problem = replace(session.problem, lr_range=(1e-5, 1e-4))
    play(session, World(lr0=1e-3), 1)
    assert max(t.lr for t in session.trials) > 3.9e-4


def test_model_scaling_finds_a_planted_law() -> None:
    world = World(a=-0.5, b=0.0, noise=0.001)
    session = play(begin("model-scaling"), world, 4)
    found = session.strategy.recommend(session.history)
    best = world.best(session.problem.target, session.problem.target.tokens)
    assert "in N" in found.law and found.rejected
    assert found.details["log_lr"] == pytest.approx(best, abs=0.35)


def test_mutransfer_says_what_it_assumes() -> None:
    session = play(begin("mutransfer"), World(a=0.0), 2)
    found = session.strategy.recommend(session.history)
    assert {t.run.parametrisation for t in session.trials} == {"completep"}
    assert any("coordinate check" in r for r in found.reasons)
    assert any("parametrisation=completep base_width=192 base_depth=3" in r for r in found.reasons)
    target = replace(small_target(), parametrisation="mup", base_width=64)
    session = play(Session(load("mutransfer")(), problem(target)), World(a=0.0), 2)
    assert {(t.run.parametrisation, t.run.model.depth) for t in session.trials} == {("mup", 6)}


def test_literature_without_trials_is_the_prior_alone() -> None:
    alone = Literature(trials=0).recommend(History(problem=problem()))
    assert alone.lr and alone.interval90 and alone.interval90[1] / alone.interval90[0] > 10
    assert "differ" in alone.reasons[0] and alone.expected_regret is None
    anchored = play(begin("literature"), World(), 1)
    after = anchored.strategy.recommend(anchored.history)
    assert after.interval90 and after.interval90[1] / after.interval90[0] < 10


def test_loading() -> None:
    assert load("search.strategies.grid:Grid") is STRATEGIES["grid"]
    with pytest.raises(UserError, match="did you mean model-scaling"):
        load("model-scalling")
    with pytest.raises(UserError, match="not a subclass"):
        load("json:JSONDecoder")


def test_every_strategy_is_a_field_of_the_command() -> None:
    """Its settings are flags (--model-scaling.lrs 6), and survive the search directory's config.json."""
    from hpt.console.settings import SearchConfig, to_json
    from trainer.config import from_dict

    for name, kind in STRATEGIES.items():
        assert type(SearchConfig(strategy=name).build_strategy()) is kind
    config = SearchConfig(name="x")
    again = from_dict(SearchConfig, json.loads(json.dumps(to_json(config))))
    for name in STRATEGIES:
        field = name.replace("-", "_")
        assert getattr(again, field) == getattr(config, field)
