"""Regret against a grid, by a planted valley; the list of commands."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpt.__main__ import COMMANDS
from hpt.regret import judged, main, truth_curve
from search.execution.store import SearchDir
from search.records import Recommendation, Trial
from trainer.errors import UserError
from trainer.presets import preset

ROOT = Path(__file__).parents[1]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "truth.jsonl"
    lines = []
    for k in range(-4, 5):
        for seed in (0, 1):
            lr = 4e-3 * 2**k
            diverged = k == 4 and seed == 1
            loss = None if diverged else 4 + 0.1 * (k * math.log(2)) ** 2 + 0.01 * seed
            run = replace(preset("laptop"), lr=lr, seed=seed)
            status = "diverged" if diverged else "finished"
            trial = Trial(id=f"{k}-{seed}", run=run, horizon=run.tokens, status=status, loss=loss)
            lines.append(json.dumps(trial.to_json()))
    path.write_text("\n".join(lines))
    return path


def test_curve_finds_the_planted_floor(truth: Path) -> None:
    curve = truth_curve(truth)
    assert math.exp(curve.best) == pytest.approx(4e-3, rel=0.05)
    assert curve.spread == pytest.approx(0.01 / math.sqrt(2), rel=0.01)
    assert judged(curve, 8e-3)["regret"] == pytest.approx(0.1 * math.log(2) ** 2, rel=0.05)
    assert judged(curve, 4e-3 * 16)["percent"] == math.inf  # one of its runs diverged
    assert judged(curve, 1e-5)["percent"] is None  # nobody knows


def test_a_grid_whose_best_lies_at_its_end_is_no_truth(truth: Path) -> None:
    low = [line for line in truth.read_text().splitlines() if json.loads(line)["run"]["lr"] >= 4e-3]
    truth.write_text("\n".join(low))
    with pytest.raises(UserError, match="lowest lr that finished, 0.004.*train lower ones"):
        truth_curve(truth)


def test_command_prints_a_row_for_each(truth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = SearchDir(tmp_path / "mine")
    answer = Recommendation(lr=2e-3, interval90=(1e-3, 5e-3))
    directory.write_recommendation(answer, {"share_of_target": 0.5})
    run = replace(preset("laptop"), lr=2e-3)
    trial = Trial(id="a", run=run, horizon=1, status="finished", loss=4.0, seconds=1.5, train_seconds=1.25)
    directory.append(trial)
    assert main(["--searches", str(directory.path), "--truth", str(truth)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "mine" in line)
    assert all(word in row for word in ("0.002", "0.0480", "yes", "50%", "250 ms"))
    with pytest.raises(UserError, match="There is no grid"):
        main(["--searches", str(directory.path), "--truth", str(tmp_path / "none")])


def test_the_list_of_commands_is_whole() -> None:
    with_main = {p.stem for p in (ROOT / "hpt").glob("*.py") if "__main__" in p.read_text() and p.stem != "__main__"}
    assert with_main == set(COMMANDS)
    done = subprocess.run([sys.executable, "-m", "hpt", "serach"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "did you mean search?" in done.stderr
