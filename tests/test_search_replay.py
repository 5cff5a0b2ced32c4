"""Tables of runs, the world made of them, and the problems posed in it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search.budget import Spending
from search.records import History, Proposal, Trial
from search.replay.arena import Rules
from search.replay.cases import targets
from search.replay.peers import AtTarget, CopySmallest, Halving
from search.replay.problems import direct_problem, problem_for
from search.replay.table import Columns, load_table
from search.replay.world import World, replay
from search.shapes.ladder import ladder, model_of, scaled, size_of
from search.shapes.menu import nearest
from trainer.architecture.counts import flops_per_token, parameters
from trainer.errors import UserError
from trainer.presets import preset

SHARED = Path(os.environ.get("HPT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
STEPLAW = SHARED / "runs" / "steplaw_dense_small.csv"
HEADER = "N,D,lr,batch,loss"
LRS = (1e-3, 2e-3, 4e-3, 8e-3)
RISING = "\n".join([HEADER, *(f"1e6,{d},{lr},4096,{loss}" for d, loss in ((1e7, 3.0), (4e7, 3.1)) for lr in LRS)])
TWICE = "\n".join([HEADER, *(f"1e6,1e7,{lr},4096,3" for lr in LRS), "1e6,1e7,1e-3,4096,4.5"])


def sweep(path: Path, sizes=(1e6, 4e6), lrs=None, best=4e-3, extra=()) -> Path:
    """Parabolas with the floor at `best` x (1e6 / N)^0.5; diverged above 30 x the floor."""
    rows = [HEADER]
    for n in sizes:
        for d in (2e7, 8e7):
            for lr in lrs or np.geomspace(4e-4, 0.2, 10):
                z = math.log(lr / (best * (1e6 / n) ** 0.5))
                loss = "nan" if z > math.log(30) else 3 * (1 + 0.01 * z * z)
                rows.append(f"{n:.0f},{d:.0f},{lr},4096,{loss}")
    path.write_text("\n".join([*rows, *extra]) + "\n")
    return path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(load_table(sweep(tmp_path / "t.csv")), noise=0.0)


def ask(world: World, n: float, d: float, lr: float, b: int = 4096) -> Trial:
    run = world.configuration(int(n), int(d), 4096)
    run = replace(run, lr=lr, batch=b)
    cost = problem_for(world, world.configuration(4_000_000, int(8e7), 4096), share=1.0).cost
    return world.run(Proposal(id="a", run=run, horizon=run.tokens), cost)


def test_world_interpolates_between_lrs_and_finds_the_floor(world: World) -> None:
    target = world.configuration(4_000_000, 80_000_000, 4096)
    lrs = np.geomspace(5e-4, 2e-2, 400)
    losses = [world.loss(target, lr) for lr in lrs]
    assert math.log(lrs[np.argmin(losses)] / 2e-3) == pytest.approx(0, abs=0.05)
    assert min(losses) == pytest.approx(3, rel=1e-3)
    trial = ask(world, 4e6, 8e7, 3e-3)
    assert trial.status == "finished" and trial.loss == pytest.approx(3 * (1 + 0.01 * math.log(1.5) ** 2), rel=1e-3)
    assert trial.flops == pytest.approx(6 * 4e6 * 8e7, rel=0.01)


def test_an_lr_outside_the_table_is_run_at_its_end_and_another_run_not_at_all(world: World) -> None:
    high, low = ask(world, 4e6, 8e7, 0.5), ask(world, 4e6, 8e7, 1e-5)
    assert high.lr == pytest.approx(0.2) and high.status == "diverged"
    assert low.lr == pytest.approx(4e-4) and low.status == "finished" and low.flops > 0
    other = ask(world, 4e6, 8e7, 3e-3, b=8192)
    assert other.status == "failed" and other.flops == 0 and "table" in other.error
    assert ask(world, 4e6, 8e7, 0.19).status == "diverged"


def test_noise_is_drawn_once_for_each_run_and_seed(tmp_path: Path) -> None:
    table = load_table(sweep(tmp_path / "t.csv"))
    losses = [ask(World(table, noise=0.01, seed=s), 4e6, 8e7, 3e-3).loss for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_batches_in_between_are_interpolated(tmp_path: Path) -> None:
    rows = [HEADER]
    for b, floor in ((1024, 3.0), (4096, 4.0)):
        rows += [f"1e6,2e7,{lr},{b},{floor + (math.log(lr / 1e-3)) ** 2}" for lr in (5e-4, 1e-3, 2e-3)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    world = World(load_table(tmp_path / "t.csv"), noise=0.0)
    assert world.loss(world.configuration(10**6, 2 * 10**7, 2048), 1e-3) == pytest.approx(3.5, abs=0.01)


def test_holdout_shows_nothing_of_the_target_or_larger(world: World) -> None:
    target = world.configuration(4_000_000, 80_000_000, 4096)
    by_size = problem_for(world, target, share=0.5)
    assert {(world.key(r)[0], r.tokens) for r in by_size.proxies or ()} == {
        (10**6, 2 * 10**7),
        (10**6, 8 * 10**7),
    }
    by_run = problem_for(world, target, share=0.5, holdout="run")
    assert target not in (by_run.proxies or ())
    assert (4 * 10**6, 2 * 10**7) in {(world.key(r)[0], r.tokens) for r in by_run.proxies or ()}
    assert by_size.budget.share(by_size.cost.forecast(target, target.tokens)) == pytest.approx(2)
    with pytest.raises(UserError, match="nothing smaller"):
        problem_for(world, world.configuration(10**6, 2 * 10**7, 4096), share=1.0)


@pytest.mark.parametrize("peer", [AtTarget(), AtTarget(sampler="tpe"), Halving(reduction_factor=2), CopySmallest()])
def test_peers_end_within_the_budget(world: World, peer) -> None:
    target = world.configuration(4_000_000, 80_000_000, 4096)
    make = problem_for if isinstance(peer, CopySmallest) else direct_problem
    problem = make(world, target, share=5.0)
    history = replay(peer, problem, world, slots=3)
    assert history.trials and problem.budget.allows(history.spent)
    assert all(t.status != "failed" for t in history)
    answer = peer.recommend(history)
    assert answer.lr is not None and 4e-4 <= answer.lr <= 0.2
    empty = History(problem=problem)
    assert peer.recommend(empty).lr is None
    assert sum((s.cost for s in peer.plan(empty)), Spending()).flops == pytest.approx(history.spent.flops)


def test_trials_jsonl_is_a_table(world: World, tmp_path: Path) -> None:
    trials = [ask(world, 1e6, 2e7, lr) for lr in (1e-3, 2e-3, 4e-3, 8e-3)]
    path = tmp_path / "trials.jsonl"
    path.write_text("\n".join(json.dumps(t.to_json()) for t in trials))
    table = load_table(path)
    ((key, cell),) = table.cells.items()
    assert key[1:] == (20_000_000, 4096) and len(cell.loss) == 4
    assert parameters(table.models[key[0]]).non_embedding == key[0]


def test_real_runs_are_a_table_whose_targets_are_theirs() -> None:
    world = World(load_table(Path(__file__).parents[1] / "notebooks" / "data" / "laptop_truth.jsonl"))
    ((n, d, b),) = world.table.cells
    target = world.configuration(n, d, b)
    assert (parameters(target.model).non_embedding, target.tokens, target.batch) == (n, d, b)
    assert target.model.context == 128


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("N,D,lr,loss\n1,2,3,4", "no column for batch"),
        (f"{HEADER}\n1e6,1e7,-1e-3,4096,3", "run 1: lr is -0.001"),
        (f"{HEADER}\n1e6,1e7,abc,4096,3", "lr is nan"),
        (HEADER, "holds no runs"),
        (f"{HEADER}\n1e6,1e7,1e-3,4096,3\n1e6,1e7,2e-3,4096,nan", "3 lrs that finished"),
        (f"{HEADER}\n1e6,1e7,1e-3,4096,3\n1e6,2e7,2e-3,4096,3", "a single lr"),
        (f"{HEADER}\n1e6,1e7,12,4096,3", "no lr is 12"),
        (f"{HEADER}\n1e6,1e7,1e-3,2e7,3", "more than all 10,000,000 training tokens"),
        (f"{HEADER}\n1e6,1e7,1e-3,4096,-1", "not one in nats"),
        (f"{HEADER}\n1e6,1e7,1e-3,4096,300", "perplexities"),
        (f"{HEADER}\n1e9,1e12,1e-3,64,3", "give --context"),
        (RISING, "rises with the training tokens at every size"),
        (TWICE, "runs 1 and 5 have the same N, D, batch and lr"),
    ],
)
def test_bad_tables_are_said_in_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        load_table(tmp_path / "t.csv")


def test_columns_by_name_and_twice_the_same_row(tmp_path: Path) -> None:
    rows = ["size,tok,eta,seqs,L"] + [f"1e6,1e7,{lr},2,{3 + lr}" for lr in (1e-3, 2e-3, 4e-3, 4.003e-3)]
    (tmp_path / "t.csv").write_text("\n".join([*rows, rows[1]]))
    columns = Columns(n="size", d="tok", lr="eta", batch="seqs", loss="L")
    table = load_table(tmp_path / "t.csv", columns, context=512)
    ((key, cell),) = table.cells.items()
    assert key == (10**6, 10**7, 1024)
    assert len(cell.loss) == 3 and cell.spread[1] == 1  # 4e-3 and 4.003e-3 are one grid point
    assert any("twice" in note for note in table.notes)
    with pytest.raises(UserError, match="no column 'nope'"):
        load_table(tmp_path / "t.csv", Columns(n="nope"))


@pytest.mark.parametrize("n", [30_000, 10**6, 214_663_680, 7 * 10**9])
def test_made_up_shapes_have_the_parameters_and_cost_6nd(n: int) -> None:
    model = model_of(n)
    assert parameters(model).non_embedding == pytest.approx(n, rel=0.02)
    assert flops_per_token(model) == pytest.approx(6 * n, rel=0.02)


def test_ladder_holds_whole_smaller_runs() -> None:
    target = preset("gpt2-124m")
    assert ladder(target, (1.0,), (1 / 16,)) == ()  # warmup is a tenth of the target
    assert len(ladder(replace(target, warmup=target.tokens // 50), (1.0,), (1 / 16,))) == 1
    (eighth,) = ladder(replace(target, warmup=target.tokens // 20), (1.0,), (1 / 16,))  # as long as it fits
    assert eighth.warmup == target.tokens // 20 and 0.125 <= eighth.tokens / target.tokens < 0.126
    runs = ladder(target, (1 / 16, 1 / 4, 1.0), (1 / 4, 1.0))
    assert len(runs) == 5 and all(r.lr is None for r in runs)
    assert all(r.tokens % r.batch == 0 and r.warmup == min(target.warmup, round(0.4 * r.tokens)) for r in runs)
    shares = {round(math.log2(size_of(r) / size_of(target))) for r in runs}
    assert shares == {-4, -2, 0}
    small = scaled(target, 1 / 16).model
    assert small.width % small.heads == 0 and small.depth < 12


def test_nearest_keeps_size_before_tokens_before_batch(world: World) -> None:
    target = world.configuration(4_000_000, 80_000_000, 4096)
    problem = problem_for(world, target, share=1.0)
    found = nearest(problem, replace(target, lr=1e-3, tokens=30_000_000))
    assert world.key(found) == (10**6, 2 * 10**7, 4096) and found.lr == 1e-3


@pytest.mark.skipif(not STEPLAW.exists(), reason="the shared sweep is not here")
def test_step_law_sweep_is_read_as_published() -> None:
    world = World(load_table(STEPLAW))
    assert any("135 runs above" in note for note in world.table.notes)
    assert world.table.sizes == [214663680, 268304384, 429260800]
    assert {parameters(m).non_embedding // 10**5 for m in world.table.models.values()} == {2146, 2683, 4292}
    assert 2e-4 < world.sd < 1.2e-3
    (case,) = [c for c in targets(world, Rules())[0] if c.target.tokens == 22_700_000_000]
    assert case.truth.best == pytest.approx(1.8e-3, rel=0.1) and case.target.batch == 192 * 2048


def test_a_mixture_of_experts_is_as_large_as_what_a_token_meets(tmp_path: Path) -> None:
    rows = [
        f"{total},{active},1e9,{lr},{2.0 + abs(math.log(lr / 1e-3)) + extra},512"
        for total, active, extra in ((2e9, 2e8, 0.1), (2e9, 4e8, 0.0))
        for lr in (5e-4, 1e-3, 2e-3, 4e-3)
    ]
    rows += ["9e9,2e8,1e9,1e-3,1.5,512"]  # as many active ones, of another model
    path = tmp_path / "moe.csv"
    path.write_text("\n".join(["N,Na,D,lr,loss,bs", *rows]))
    table = load_table(path)
    assert table.sizes == [200_000_000, 400_000_000] and all(len(cell.loss) == 4 for cell in table.cells.values())
    assert min(table.cells[200_000_000, 10**9, 512 * 2048].loss) == pytest.approx(2.1)
    assert any("N is Na" in note for note in table.notes) and any("1 runs with the Na" in note for note in table.notes)
    for n, model in table.models.items():
        assert abs(parameters(model).non_embedding / n - 1) < 0.02
