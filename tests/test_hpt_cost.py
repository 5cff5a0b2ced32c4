"""The cost analysis: what it measures, and how it judges a search's forecasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import trainer.cohorts.calibrate
from hpt.cost import main, timed
from search.budget import shape_key
from search.execution.store import SearchDir
from search.records import Trial
from trainer.presets import preset

SMALL = ["model.depth=1", "model.width=32", "model.context=32", "model.vocabulary=300", "batch=256", "tokens=25600"]


def test_times_a_target_and_multiplies_by_its_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--targets", "laptop", "--set", *SMALL, "warmup=0", "--usd-per-hour", "1000"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "laptop" in line).split()
    assert row[2] == "100" and float(row[-1]) >= 0


def test_a_batch_of_many_micro_batches_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    def a_second(call: Callable[[], object]) -> float:
        call()
        return 1.0

    monkeypatch.setattr(trainer.cohorts.calibrate, "_seconds", a_second)  # noise of the machine is not what is tested
    run = replace(preset("laptop"), micro_batch=8)
    one, four = timed(run), timed(replace(run, batch=4 * run.batch))
    passes = run.batch / (8 * run.model.context)
    assert one.step_seconds == one.typical_seconds == passes and four.step_seconds == 4 * passes
    assert four.tokens == one.tokens


def test_forecasts_are_compared_with_what_trials_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, directory = preset("laptop"), SearchDir(tmp_path)
    timing = {"step_seconds": 0.1, "eval_seconds": 0.0, "startup_seconds": 0.0}
    directory.write_config({"timings": {shape_key(run): timing}})
    for k, seconds in enumerate((60.0, 90.0)):  # 600 steps of 0.1 s were forecast
        trial = Trial(id=str(k), run=replace(run, lr=1e-3), horizon=run.tokens, status="finished", seconds=seconds)
        directory.append(replace(trial, loss=1.0, tags={"stage": "mine"}))
    assert main(["--search", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    row = next(line for line in output.splitlines() if "mine" in line).split()
    assert row == ["mine", "2", "60.00", "75.00", "1.25"]
