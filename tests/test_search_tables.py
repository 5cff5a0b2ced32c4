"""Other people's tables: names, units, flags, exports, loss curves, mixtures of experts."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from search.records import Proposal
from search.replay.arena import Rules, judge
from search.replay.cases import targets
from search.replay.columns import Columns, plain
from search.replay.problems import USUAL, direct_problem, problem_for
from search.replay.rows import read
from search.replay.table import load_table
from search.replay.world import World
from search.strategies.hyperband import Hyperband
from trainer.errors import UserError

LRS = [float(f"{lr:.4g}") for lr in np.geomspace(5e-4, 3e-2, 8)]


def loss(n: float, d: float, lr: float, tokens: float | None = None) -> float:
    """Best at 4e-3 (1e6 / n)^0.3; cut short, higher, and best at a lower lr."""
    share = 1.0 if tokens is None else tokens / d
    z = math.log(lr / (4e-3 * (1e6 / n) ** 0.3)) + 0.3 * (1 - share)
    return (2 + (1e5 / n) ** 0.2 + (1e6 / (share * d)) ** 0.2) * (1 + 0.02 * z * z)


def runs(sizes=(1e6, 4e6), tokens=(2e7, 8e7)) -> list[dict]:
    return [
        {"n": int(n), "d": int(d), "lr": lr, "bs": 16, "loss": loss(n, d, lr), "run": f"{n:g}-{d:g}-{lr:g}"}
        for n in sizes
        for d in tokens
        for lr in LRS
    ]


def written(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
    return path


def renamed(rows: list[dict], names: dict[str, str], more: dict | None = None) -> list[dict]:
    return [{names[k]: v for k, v in row.items() if k in names} | (more or {}) for row in rows]


WANDB = {
    "run": "Name",
    "n": "config.n_params",
    "d": "tokens_seen",
    "lr": "learning_rate",
    "bs": "batch_size",
    "loss": "val/loss",
}
MLFLOW = {
    "run": "run_id", "n": "params.N_non_embedding", "d": "params.D", "lr": "params.lr", "bs": "params.B",
    "loss": "metrics.final_val_loss",
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "more"),
    [
        (WANDB, {"State": "finished", "Runtime": 12}),
        (MLFLOW, {"status": "FINISHED", "metrics.lr": 0.0, "experiment_id": "1"}),
    ],
    ids=["wandb", "mlflow"],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_exports_are_read_as_they_come(tmp_path: Path, names: dict, more: dict, suffix: str) -> None:
    table = load_table(written(tmp_path / f"t{suffix}", renamed(runs(), names, more)), context=128)
    assert set(table.cells) == {(n, d, 2048) for n in (10**6, 4 * 10**6) for d in (2 * 10**7, 8 * 10**7)}
    assert all(len(cell.loss) == len(LRS) for cell in table.cells.values())
    assert any("sequences of 128 tokens" in note for note in table.notes)


def test_runs_that_did_not_end_and_rows_that_are_none_are_left_out(tmp_path: Path) -> None:
    rows = renamed(runs(), WANDB, {"State": "finished"})
    rows[3]["State"], rows[4]["State"], rows[5]["State"] = "crashed", "running", "diverged"
    rows.append({"Name": "the parent", "State": "finished"})
    table = load_table(written(tmp_path / "t.csv", rows), context=128)
    cell = table.cells[10**6, 2 * 10**7, 2048]
    assert len(cell.loss) == len(LRS) - 2 and np.isinf(cell.loss).sum() == 1
    assert any(note.startswith("2 runs did not end") for note in table.notes)
    assert any("neither an lr nor a loss" in note for note in table.notes)


def test_tokens_by_ratio_or_steps(tmp_path: Path) -> None:
    rows = runs()
    by_ratio = [{**row, "D/N": row.pop("d") / row["n"]} for row in (dict(r) for r in rows)]
    by_steps = [{**row, "steps": row.pop("d") // 2048} for row in (dict(r) for r in rows)]
    for name, some in (("a", by_ratio), ("b", by_steps)):
        table = load_table(written(tmp_path / f"{name}.csv", some), context=128)
        assert sorted({d for _, d, _ in table.cells}) == pytest.approx([2 * 10**7, 8 * 10**7], rel=1e-3)
        assert len(table.cells) == 4
    odd = [{"q": r.pop("D/N"), **r} for r in by_ratio]
    assert len(load_table(written(tmp_path / "c.csv", odd), Columns(ratio="q"), context=128).cells) == 4


@pytest.mark.parametrize(
    ("columns", "tokens"),
    [
        ({"batch_size": 64, "seq_len": 1024}, 65536),
        ({"batch_size": 65536, "seq_len": 1024}, 65536),  # a step holds a sequence at least: these are tokens
        ({"batch_size": 65536, "seq_len": 1024, "grad_accum": 8}, 65536),
        ({"batch_size": 4, "block_size": 512, "gradient_accumulation_steps": 40}, 4 * 512 * 40),  # nanoGPT
        ({"per_device_train_batch_size": 8, "world_size": 4, "gradient_accumulation_steps": 2, "seq_length": 256},
         8 * 4 * 2 * 256),
        ({"micro_batch_size": 8, "grad_accum": 3, "global_batch_size": 96, "max_seq_len": 128}, 96 * 128),
        ({"batch_tokens": 32768, "batch_size": 32, "seq_len": 1024}, 32768),
        ({"params_per_device_train_batch_size": 8, "params_world_size": 3, "params_seq_length": 256}, 8 * 3 * 256),
        ({"args/micro_batch_size": 8, "args/num_gpus": 3, "args/seq_length": 256}, 8 * 3 * 256),
    ],
)  # fmt: skip
def test_a_step_s_tokens_are_what_its_columns_make(tmp_path: Path, columns: dict, tokens: int) -> None:
    plain = [{k: v for k, v in row.items() if k != "bs"} | columns for row in runs()]
    found = load_table(written(tmp_path / "runs.csv", plain))
    assert {b for _, _, b in found.cells} == {tokens}
    assert any(" x " in note for note in found.notes) == (tokens not in columns.values())


def test_a_column_beside_the_batch_is_taken_only_where_it_counts(tmp_path: Path) -> None:
    rows = [r | {"seq_len": 1024, "num_gpus": 2} for r in runs()]
    plain = [{"batch_tokens" if k == "bs" else k: 65536 if k == "bs" else v for k, v in r.items()} for r in rows]
    found = read(written(tmp_path / "runs.csv", plain), Columns())
    assert found.names["context"] is found.names["workers"] is None and {r.b for r in found.rows} == {65536}


def test_a_share_of_a_device_needs_its_context(tmp_path: Path) -> None:
    plain = [{"per_device_batch_size" if k == "bs" else k: v for k, v in row.items()} for row in runs()]
    assert {b for _, _, b in load_table(written(tmp_path / "runs.csv", plain), context=256).cells} == {4096}
    plain = [row | {"d": 1e11} for row in plain]
    with pytest.raises(UserError, match="give --context"):
        load_table(written(tmp_path / "runs.csv", plain))


def test_a_shape_a_perplexity_and_other_files(tmp_path: Path) -> None:
    """N by depth and width, a loss by its exponential, JSON in three forms, decimal commas."""
    wanted = load_table(written(tmp_path / "runs.csv", [r | {"n": 12 * 4 * 128**2} for r in runs((1e6,))]))
    shaped = [{k: v for k, v in r.items() if k not in ("n", "loss")} | {"val/ppl": math.exp(r["loss"]), "n_layer": 4,
              "n_embd": 128} for r in runs((1e6,))]  # fmt: skip
    forms = {
        "list.json": json.dumps(shaped),
        "inside.json": json.dumps({"project": "x", "runs": shaped}),
        "columns.json": json.dumps({k: {str(i): r[k] for i, r in enumerate(shaped)} for k in shaped[0]}),
        "tab.txt": "\n".join("\t".join(map(str, row)) for row in (shaped[0].keys(), *(r.values() for r in shaped))),
        "commas.csv": "\n".join(
            ";".join(str(v).replace(".", ",") for v in row) for row in (shaped[0].keys(), *(r.values() for r in shaped))
        ),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        found = load_table(tmp_path / name)
        assert found.cells.keys() == wanted.cells.keys(), name
        for key, cell in wanted.cells.items():
            np.testing.assert_allclose(found.cells[key].log_lr, cell.log_lr)
            np.testing.assert_allclose(found.cells[key].loss, cell.loss)
        assert any("12 x depth x width^2" in note for note in found.notes)
        assert any("perplexity" in note for note in found.notes)


def test_divergence_by_flag_by_cap_and_by_sight(tmp_path: Path) -> None:
    rows = runs()
    for row in rows:
        row["blown"] = "True" if row["lr"] == LRS[-1] else "False"
    flagged = load_table(written(tmp_path / "a.csv", rows), Columns(diverged="blown"), context=128)
    assert all(np.isinf(cell.loss[-1]) and np.isfinite(cell.loss[:-1]).all() for cell in flagged.cells.values())
    worst = max(row["loss"] for row in rows)
    capped = load_table(written(tmp_path / "b.csv", runs()), context=128, loss_cap=worst - 1e-6)
    assert sum(int(np.isinf(cell.loss).sum()) for cell in capped.cells.values()) == 1
    rows = runs()
    for row in rows:
        if row["lr"] >= LRS[-2]:
            row["loss"] = 9.1 + 0.3 * (row["lr"] == LRS[-1])  # a number, and yet it diverged
        if row["lr"] == LRS[0]:
            row["loss"] *= 1.6  # learnt little, and did not diverge
    table = load_table(written(tmp_path / "c.csv", rows), context=128)
    assert all(np.isinf(c.loss[-2:]).all() and np.isfinite(c.loss[:-2]).all() for c in table.cells.values())
    assert any("8 runs above the best lr" in note for note in table.notes)
    assert World(table).sd < 0.005  # and is no noise


def test_a_mixture_with_one_total_is_said(tmp_path: Path) -> None:
    rows = [{**row, "N_total": 10**8, "active_params": row.pop("n")} for row in runs()]
    table = load_table(written(tmp_path / "t.csv", rows), context=128)
    assert table.sizes == [10**6, 4 * 10**6]
    assert any("may even rise with N" in note for note in table.notes)
    named = [{**row, "everything": row.pop("N_total")} for row in rows]
    again = load_table(written(tmp_path / "u.csv", named), Columns(total="everything"), context=128)
    assert again.sizes == table.sizes and any("everything is the same" in note for note in again.notes)


def test_seeds_are_repeats_and_contradictions_are_not(tmp_path: Path) -> None:
    rows = [{**row, "seed": seed, "loss": row["loss"] + 0.01 * seed} for row in runs() for seed in (0, 1)]
    table = load_table(written(tmp_path / "a.csv", rows), context=128)
    assert all(cell.spread[1] == len(LRS) for cell in table.cells.values())
    twice = [*runs(), {**runs()[0], "loss": 1.2 * runs()[0]["loss"]}]
    with pytest.raises(UserError, match="runs 1 and 33 have the same"):
        load_table(written(tmp_path / "b.csv", twice), context=128)


def curved(path: Path) -> tuple[Path, Path]:
    points = [
        {"run": row["run"], "tokens": row["d"] * share, "loss": loss(row["n"], row["d"], row["lr"], row["d"] * share)}
        for row in runs()
        for share in (0.02, 0.1, 0.3, 0.6, 0.9)
    ]
    return written(path / "t.csv", runs()), written(path / "curves.csv", points)


def test_strategies_that_stop_early_run_on_recorded_curves(tmp_path: Path) -> None:
    table = load_table(curved(tmp_path)[0], context=128, curves=curved(tmp_path)[1])
    world = World(table, noise=0.0)
    case = targets(world, Rules(holdout="run"))[0][-1]
    assert case.serves == ("whole runs", "curves") and case.first == pytest.approx(0.02)
    run = replace(case.target, lr=3e-3)
    cost = case.pose(_contender("hyperband"), 1.0, 0)[0].cost
    cut = world.run(Proposal(id="a", run=run, horizon=run.tokens * 3 // 10, keep=True), cost)
    n, d, _ = case.key
    assert cut.loss == pytest.approx(loss(n, d, 3e-3, 0.3 * d), rel=2e-3)
    assert cut.trunk == cut.horizon and cut.flops == pytest.approx(0.3 * 6 * n * d, rel=0.02)
    early = world.run(Proposal(id="b", run=run, horizon=run.tokens // 100), cost)
    assert early.status == "failed" and "after" in early.error
    for name in ("hyperband", "early-stopping", "hybrid", "halving"):
        (result,) = judge(case, name, 3.0, [0], Rules(holdout="run"))
        assert result.outcome == "answered" and result.cost <= 3 and result.trials > 3, name
        assert result.regret < 3 or not result.judged, name
    bare = targets(World(load_table(curved(tmp_path)[0], context=128)), Rules(holdout="run"))[0]
    assert all(case.serves == ("whole runs",) for case in bare)


def _contender(name: str):
    from search.replay.contenders import CONTENDERS

    return CONTENDERS[name]


def test_curves_in_a_column_are_the_same(tmp_path: Path) -> None:
    by_file = load_table(curved(tmp_path)[0], context=128, curves=curved(tmp_path)[1])
    told = {p["run"]: [] for p in runs()}
    for point in csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text())):
        told[point["run"]].append([float(point["tokens"]), float(point["loss"])])
    rows = [{**row, "curve": json.dumps(told[row["run"]])} for row in runs()]
    by_column = load_table(written(tmp_path / "u.csv", rows), context=128)
    key = next(iter(by_file.cells))
    assert by_column.earliest(*key) == by_file.earliest(*key)
    assert np.allclose(by_column.cut(*key, 1e7).loss, by_file.cut(*key, 1e7).loss)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run,loss\na,1", "must have the columns run, tokens and loss"),
        ("run,tokens,loss\nnobody,1,1", "No run of"),
    ],
)
def test_bad_curves_are_said(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=words):
        load_table(written(tmp_path / "t.csv", runs()), context=128, curves=tmp_path / "c.csv")


def test_each_proxy_has_its_own_lrs_and_beliefs_get_no_range_of_the_table(tmp_path: Path) -> None:
    rows = [r for r in runs() if not (r["n"] == 10**6 and r["d"] == 2 * 10**7 and r["lr"] > 4e-3)]  # one short cell
    world = World(load_table(written(tmp_path / "t.csv", rows), context=128), noise=0.0)
    target = world.configuration(4 * 10**6, 8 * 10**7, 2048)
    problem = problem_for(world, target, share=1.0)
    assert problem.lr_range == pytest.approx((LRS[0], LRS[-1]))
    assert problem.recorded and sorted(high for _, high in problem.recorded)[0] < 4e-3
    case = targets(world, Rules())[0][-1]
    assert case.pose(_contender("transfer"), 1.0, 0)[0].lr_range == USUAL
    assert case.pose(_contender("copy-smallest"), 1.0, 0)[0].lr_range == problem.lr_range
    assert direct_problem(world, target, share=1.0).lr_range == pytest.approx((LRS[0], LRS[-1]))


def test_targets_at_an_edge_are_dropped_with_a_word(tmp_path: Path) -> None:
    rows = [r for r in runs(tokens=(2e7, 8e7)) if not (r["n"] == 4 * 10**6 and r["d"] == 2 * 10**7 and r["lr"] > 2e-3)]
    world = World(load_table(written(tmp_path / "a.csv", rows), context=128), noise=0.0)
    found, notes = targets(world, Rules())
    assert [case.target.tokens for case in found] == [8 * 10**7] and "1 targets whose lowest loss" in notes[0]
    rows = [r for r in rows if not (r["n"] == 4 * 10**6 and r["lr"] > 2e-3)]
    world = World(load_table(written(tmp_path / "b.csv", rows), context=128), noise=0.0)
    with pytest.raises(UserError, match="no usable target: in 2 cells"):
        targets(world, Rules())


def test_an_answer_outside_is_not_judged_and_one_that_diverged_is(tmp_path: Path) -> None:
    rows = [r if r["lr"] < LRS[-1] else {**r, "loss": "nan"} for r in runs()]
    world = World(load_table(written(tmp_path / "t.csv", rows), context=128), noise=0.0)
    truth = targets(world, Rules())[0][0].truth
    assert math.isnan(truth.regret(1e-4, 2048)[0]) and math.isnan(truth.regret(0.1, 2048)[0])
    assert math.isinf(truth.regret(0.99 * LRS[-1], 2048)[0])
    assert math.isnan(truth.regret(2e-3, 4096)[0])


def test_names_are_plain() -> None:
    names = ["params.`lr`", "val/loss", "config.optimizer.lr", "Smooth Loss", "D/N"]
    assert [plain(n) for n in names] == ["lr", "val_loss", "optimizer_lr", "smooth_loss", "d_n"]


def test_the_fitted_hyperband_asks_for_nothing_the_curves_do_not_tell(tmp_path: Path) -> None:
    table = load_table(curved(tmp_path)[0], context=128, curves=curved(tmp_path)[1])
    case = targets(World(table, noise=0.0), Rules(holdout="run"))[0][-1]
    who = _contender("hyperband")
    problem, world = case.pose(who, 4.0, 0)
    strategy = who.make(problem, case.first)
    assert isinstance(strategy, Hyperband) and strategy.cooldown == 0 and 10 <= strategy.units <= 49
    (result,) = judge(case, "hyperband", 4.0, [0], Rules(holdout="run"))
    assert "failed" not in result.reasons and result.judged
