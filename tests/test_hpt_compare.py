"""python -m hpt.compare on a small table."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hpt.compare import CompareConfig, main, run
from search.replay.arena import Rules
from search.replay.cases import targets
from search.replay.contenders import CONTENDERS
from search.replay.summary import summarise
from search.replay.table import load_table
from search.replay.world import World
from trainer.errors import UserError

WHOLE = [name for name, contender in CONTENDERS.items() if contender.needs == "whole runs"]


def targets_of(world: World, rules: Rules) -> list:
    return targets(world, rules)[0]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = ["N,D,lr,batch,loss"]
    for n in (1e6, 2e6, 8e6):
        for d in (2e7, 1e8):
            for b in (8192, 32768):
                for lr in np.geomspace(5e-4, 0.1, 12):
                    z = math.log(lr / (6e-3 * (1e6 / n) ** 0.3))
                    flat = 1 + 0.004 * math.log(b / 8192) ** 2
                    rows.append(f"{n},{d},{lr},{b},{(3 - 0.1 * math.log(n * d / 2e13)) * flat * (1 + 0.008 * z * z)}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(rows))
    return path


def test_compare_prints_writes_and_repeats(table: Path, tmp_path: Path) -> None:
    written = []
    for out in ("a", "b"):
        config = CompareConfig(table=table, budgets=(0.5, 2.0), seeds=2, noise=5e-4, jobs=1, out=tmp_path / out)
        text = io.StringIO()
        lines = run(config, Console(file=text, width=120))
        assert "transfer" in text.getvalue() and "random" in text.getvalue()
        assert {line.strategy for line in lines} == set(WHOLE) and len(lines) == 2 * len(WHOLE)
        written.append((tmp_path / out / "runs.csv").read_text())
        assert (tmp_path / out / "regret.svg").read_text().count("<circle") > 20
    assert written[0] == written[1]
    rows = list(csv.DictReader(io.StringIO(written[0])))
    assert len(rows) == len(WHOLE) * 2 * 2 * 2  # targets, budgets, seeds
    assert all(float(r["cost"]) <= float(r["budget"]) + 1e-9 for r in rows)
    ours = [float(r["regret"]) for r in rows if r["strategy"] == "transfer" and r["budget"] == "2.0"]
    assert max(ours) < 0.5 and min(ours) >= 0
    none = [r for r in rows if r["strategy"] == "random" and r["budget"] == "0.5"]
    assert none and all(r["regret"] == "nan" for r in none)  # half a run is none


HEADER = (
    "table,N,D,B,strategy,budget,seed,lr,batch,low50,high50,low90,high90,best_lr,best_lr_grid,regret,regret_grid,judged"
)


def test_a_line_a_search_and_the_summary_as_json(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "--table",
        str(table),
        "--strategies",
        "copy-smallest",
        "law: GPT-3 table",
        "--budgets",
        "2",
        "--seeds",
        "2",
    ]
    assert main([*command, "--noise", "5e-4", "--jobs", "1", "--out", str(tmp_path / "o"), "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert {line["strategy"] for line in lines} == {"copy-smallest", "law: GPT-3 table", "lr 3e-3", "law: Step Law"}
    one = next(line for line in lines if line["strategy"] == "copy-smallest")
    assert one["targets"] == 2 and one["searches"] == 4 and one["answered"] == 1 and one["width90"] > one["width50"] > 1
    assert one["inside90_range"][0] <= one["inside90"] <= one["inside90_range"][1]
    text = (tmp_path / "o" / "runs.csv").read_text()
    assert text.startswith(f"{HEADER},outcome,trials,cost,reasons")
    rows = list(csv.DictReader(io.StringIO(text)))
    outside = [r for r in rows if r["strategy"] == "law: GPT-3 table"]
    assert len(rows) == 4 * 2 * 2 and all(math.isfinite(float(r["lr"])) for r in outside)
    unjudged = [r for r in outside if not 5e-4 <= float(r["lr"]) <= 0.1]
    assert all(r["judged"] == "False" and r["regret"] == "nan" for r in unjudged)


def test_planted_problems_are_raced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--planted", "4", "--strategies", "early-stopping", "--jobs", "1", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("planted problems: 4", "level x4", "flat", "edge", "point", "lr 3e-3"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs.csv").read_text())))
    assert len(rows) == 3 * (4 + 3 * 1 + 3 * 1)
    assert {r["hopeless"] for r in rows} == {"", "flat", "edge", "point"}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "Give a table"),
        (["--planted", "2", "--table", "x.csv"], "Give a table"),
        (["--planted", "-1"], "at least one"),
        (["--table", "none.csv"], "There is no table"),
        (["--planted", "2", "--seeds", "0"], "must be a whole number from 1"),
        (["--planted", "2", "--strategies", "nope"], "no strategy nope"),
    ],
)
def test_bad_input_is_a_sentence(argv: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        main([*argv, "--out", str(tmp_path)])


def test_targets_are_the_largest_with_something_smaller(table: Path) -> None:
    world = World(load_table(table), noise=0.0)
    best = targets_of(world, Rules())
    assert [case.key for case in best] == [(8_000_000, 20_000_000, 8192), (8_000_000, 10**8, 8192)]
    assert len(targets_of(world, Rules(batch="all"))) == 4
    assert len(targets_of(world, Rules(sizes=9))) == 4
    assert len(targets_of(world, Rules(sizes=9, holdout="run"))) == 5


def test_a_single_size_is_said(tmp_path: Path) -> None:
    rows = ["N,D,lr,batch,loss"] + [f"1e6,2e7,{lr},4096,{3 + lr}" for lr in (1e-3, 2e-3, 4e-3)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    world = World(load_table(tmp_path / "t.csv"), noise=0.0)
    with pytest.raises(UserError, match="single size"):
        targets_of(world, Rules())
    with pytest.raises(UserError, match="smaller run"):
        targets_of(world, Rules(holdout="run"))


def test_unknown_strategy_is_said(table: Path, tmp_path: Path) -> None:
    config = CompareConfig(table=table, strategies=("nope",), out=tmp_path)
    with pytest.raises(UserError, match="no strategy nope"):
        run(config, Console(file=io.StringIO()))


def test_summary_of_nothing_answered() -> None:
    assert summarise([]) == []
