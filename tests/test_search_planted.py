"""Planted problems: the same each time, as various as they claim, with a truth that is one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from scaling.optimum import fit_optimum
from search.records import History, Proposal, Recommendation
from search.replay.arena import Rules, judge
from search.replay.cases import PlantedCase
from search.replay.contenders import CONTENDERS, entered
from search.replay.planted import Garden, plant, usual_level
from search.replay.summary import summarise
from search.shapes.ladder import size_of
from search.strategy import DONE, Done, Stage, Strategy
from trainer.errors import UserError

MANY = [plant(i) for i in range(200)]
ALL = ("whole runs", "curves", "any run")


def test_they_are_the_same_each_time_and_cover_what_is_claimed() -> None:
    assert plant(7) == plant(7) and plant(7) != plant(8)
    sizes = [size_of(p.target) for p in MANY]
    assert min(sizes) < 6e5 and max(sizes) > 6e8
    for at, (low, high) in enumerate(((-1, 0.5), (-0.5, 0.5))):
        slopes = [p.slopes[at] for p in MANY]
        assert min(slopes) == pytest.approx(low, abs=0.05) and max(slopes) == pytest.approx(high, abs=0.05)
    assert min(p.curvature for p in MANY) < 0.0035 and max(p.curvature for p in MANY) > 0.05
    assert min(p.noise for p in MANY) < 0.0006 and max(p.noise for p in MANY) > 0.01
    assert {p.wall for p in MANY} == {"cubic", "linex", "knee"}
    assert all(p.target.steps >= 900 for p in MANY)
    assert len({(size_of(p.target), p.target.tokens) for p in MANY}) == 200  # independent targets


@pytest.mark.parametrize("planted", MANY[:40], ids=lambda p: p.name)
def test_the_truth_is_the_lowest_of_the_formula(planted) -> None:
    lrs = planted.truth().best * np.exp(np.linspace(-1, 1, 401))
    losses = [planted.loss(planted.target, lr) for lr in lrs]
    assert lrs[int(np.argmin(losses))] == pytest.approx(planted.truth().best, rel=0.01)
    for factor in (1.3, 1 / 1.3):
        regret, grid = planted.truth().regret(planted.truth().best * factor, planted.target.batch)
        assert 0 < regret == grid < 100 * 4 * planted.curvature * math.log(1.3) ** 2 or planted.cliff < math.log(1.3)
    joint = planted.truth(joint=True)
    assert joint.regret(joint.best, joint._run.batch)[0] == pytest.approx(0, abs=1e-9)
    assert joint.regret(planted.truth().best, planted.target.batch)[0] >= 0


def test_trials_are_drawn_once_cut_short_higher_and_billed() -> None:
    planted = plant(3)
    problem = planted.problem(1.0)
    run = replace(planted.target, lr=planted.truth().best)
    whole = Proposal(id="a", run=run, horizon=run.tokens)
    first, again = planted.run(whole, problem.cost), planted.run(whole, problem.cost)
    assert first == again and first.status == "finished"
    assert first.flops == pytest.approx(problem.budget.flops)
    other = planted.run(replace(whole, run=replace(run, seed=1)), problem.cost)
    assert other.loss != first.loss
    cut = planted.run(replace(whole, horizon=run.tokens // 4, keep=True), problem.cost)
    assert cut.loss and first.loss and cut.loss > first.loss and cut.trunk == cut.horizon
    assert planted.loss(run, 1e3) > 1.1 * planted.loss(run, planted.truth().best)


def test_levels_are_usual_or_off_as_their_names_say() -> None:
    groups: dict[str, list] = {}
    for name, planted in Garden.of(40).problems():
        groups.setdefault(name, []).append(planted)
    assert {name: len(found) for name, found in groups.items()} == {
        "planted": 40, "planted, level x1": 10, "planted, level x2": 10, "planted, level x4": 10,
        "planted, flat": 4, "planted, edge": 4, "planted, point": 4,
    }  # fmt: skip
    for factor in (1, 2, 4):
        for i, planted in enumerate(groups[f"planted, level x{factor}"]):
            off = planted.level - usual_level(size_of(planted.target))
            assert abs(off) == pytest.approx(math.log(factor)) and planted.slopes == plant(i).slopes
    with pytest.raises(UserError, match="at least one"):
        list(Garden(valleys=0).problems())


def test_what_nobody_could_answer() -> None:
    flat, edge, point = (plant(1, kind) for kind in ("flat", "edge", "point"))
    assert len({flat.loss(flat.target, lr) for lr in (1e-4, 1e-3, 1e-1)}) == 1
    for planted in (edge, plant(2, "edge")):
        low, high = planted.lr_range
        proxies = planted.problem(1.0, menu=True).proxies or ()
        best = [math.exp(planted.log_best(run)) for run in (*proxies, planted.target)]
        assert all(lr > 4 * high for lr in best) or all(lr < low / 4 for lr in best)
    problem = point.problem(1.0)
    assert problem.proxies and len(problem.proxies) == 1
    one = problem.cost.forecast(problem.proxies[0], problem.proxies[0].tokens)
    assert problem.budget.allows(one) and not problem.budget.allows(one * 2)
    elsewhere = point.run(
        Proposal(id="a", run=replace(point.target, lr=1e-3), horizon=point.target.tokens), problem.cost
    )
    assert elsewhere.status == "failed" and elsewhere.flops == 0


@dataclass(frozen=True, kw_only=True)
class Sweep(Strategy):
    """Nine lrs of the target itself; a budget of nine runs."""

    def plan(self, history: History) -> list[Stage]:
        return []

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        target = history.problem.target
        new = [
            Proposal(id=str(i), run=replace(target, lr=float(lr)), horizon=target.tokens)
            for i, lr in enumerate(np.geomspace(1e-4, 1e-1, 9))
        ]
        return [p for p in new if p.id not in history.known][:slots] or DONE

    def recommend(self, history: History) -> Recommendation:
        done = history.finished
        found = fit_optimum([t.lr for t in done], [t.loss or 0.0 for t in done])
        if found is None or found.edge:
            return Recommendation(lr=None, reasons=("no valley is seen",))
        ends = [math.exp(found.log_lr + q * found.sd) for q in (-1.645, -0.674, 0.674, 1.645)]
        return Recommendation(lr=math.exp(found.log_lr), interval50=(ends[1], ends[2]), interval90=(ends[0], ends[3]))


def test_a_strategy_of_ones_own_is_judged() -> None:
    name = f"{__name__}:Sweep"
    results = [r for i in range(30) for r in judge(PlantedCase("planted", plant(i), Rules()), name, 9.0, [0], Rules())]
    (line,) = summarise(results)
    assert line.targets == 30 and line.answered > 0.8 and line.median < 0.5
    assert line.cost == pytest.approx(9, abs=0.1) and 0.4 < line.inside90 <= 1
    missed = judge(PlantedCase("planted, flat", plant(0, "flat"), Rules()), "lr 3e-3", 1.0, [0], Rules())
    assert missed[0].missed == 1 and missed[0].hopeless == "flat"


SLOW = ("transfer", "hybrid")  # hundreds of trials, with a fit for most


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CONTENDERS])
def test_every_contender_runs_and_stays_within_its_money(name: str) -> None:
    for kind in ("valley", "point"):
        (result,) = judge(PlantedCase("planted", plant(4, kind), Rules()), name, 1.0, [0], Rules())
        assert result.cost <= 1 + 1e-9 and result.outcome in ("answered", "refused", "unable")
        if result.outcome != "answered":
            assert result.reasons


def test_free_rules_always_run_and_what_cannot_is_said() -> None:
    assert entered(["transfer"], ALL) == ["transfer", "lr 3e-3", "law: Step Law"]
    assert set(entered([], ALL)) == set(CONTENDERS)
    assert "hyperband" not in entered([], ("whole runs",))
    with pytest.raises(UserError, match="add their loss curves"):
        entered(["hyperband"], ("whole runs",))
    with pytest.raises(UserError, match="no strategy nope"):
        entered(["nope"], ALL)
