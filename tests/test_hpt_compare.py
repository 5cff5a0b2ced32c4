"""python -m hpt.compare on a small table."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hpt.compare import CompareConfig, run
from search.replay.arena import Rules, targets
from search.replay.contenders import CONTENDERS
from search.replay.summary import summarise
from search.replay.table import load_table
from search.replay.world import World
from trainer.errors import UserError

WHOLE = [name for name, contender in CONTENDERS.items() if contender.needs == "whole runs"]


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


def test_targets_are_the_largest_with_something_smaller(table: Path) -> None:
    world = World(load_table(table), noise=0.0)
    best = targets(world, Rules())
    assert [case.key for case in best] == [(8_000_000, 20_000_000, 8192), (8_000_000, 10**8, 8192)]
    assert len(targets(world, Rules(batch="all"))) == 4
    assert len(targets(world, Rules(sizes=9))) == 4
    assert len(targets(world, Rules(sizes=9, holdout="run"))) == 5


def test_a_single_size_is_said(tmp_path: Path) -> None:
    rows = ["N,D,lr,batch,loss"] + [f"1e6,2e7,{lr},4096,{3 + lr}" for lr in (1e-3, 2e-3, 4e-3)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    world = World(load_table(tmp_path / "t.csv"), noise=0.0)
    with pytest.raises(UserError, match="single size"):
        targets(world, Rules())
    with pytest.raises(UserError, match="smaller run"):
        targets(world, Rules(holdout="run"))


def test_unknown_strategy_is_said(table: Path, tmp_path: Path) -> None:
    config = CompareConfig(table=table, strategies=("nope",), out=tmp_path)
    with pytest.raises(UserError, match="no strategy nope"):
        run(config, Console(file=io.StringIO()))


def test_summary_of_nothing_answered() -> None:
    assert summarise([]) == []
