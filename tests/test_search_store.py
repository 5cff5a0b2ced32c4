"""The search directory: appended lines survive, torn and damaged ones are told apart."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.execution.store import SearchDir
from search.records import Trial
from trainer.errors import UserError
from trainer.presets import preset

RUN = preset("laptop")
trials = st.builds(
    lambda k, lr, loss, curve, tags: Trial(
        id=f"t{k}",
        run=replace(RUN, lr=lr),
        horizon=4096 * k,
        status="finished",
        loss=loss,
        curve=tuple(curve),
        tags=tags,
    ),
    st.integers(1, 999),
    st.floats(1e-6, 1.0),
    st.floats(0.0, 20.0),
    st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 20)), max_size=5),
    st.dictionaries(st.sampled_from(["bracket", "rung", "stage"]), st.integers() | st.text(max_size=5)),
)


@given(st.lists(trials, max_size=6, unique_by=lambda trial: trial.id))
@settings(max_examples=25, deadline=None)
def test_history_round_trips(tmp_path_factory: pytest.TempPathFactory, written: list[Trial]) -> None:
    directory = SearchDir(tmp_path_factory.mktemp("search"))
    for trial in written:
        directory.append(trial)
    assert directory.read_trials() == written


def one(number: int) -> Trial:
    return Trial(id=f"t{number}", run=replace(RUN, lr=1e-3), horizon=1, status="diverged")


def test_a_torn_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    directory = SearchDir(tmp_path)
    directory.append(one(1))
    with open(tmp_path / "trials.jsonl", "a") as file:
        file.write('{"id": "t2", "run": {"mod')
    assert directory.read_trials() == [one(1)]
    directory.append(one(3))
    assert directory.read_trials() == [one(1), one(3)]


def test_other_damage_is_named(tmp_path: Path) -> None:
    directory = SearchDir(tmp_path)
    directory.append(one(1))
    (tmp_path / "trials.jsonl").write_text("{}\n" + (tmp_path / "trials.jsonl").read_text())
    with pytest.raises(UserError, match="trials.jsonl, line 1 is damaged"):
        directory.read_trials()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged"):
        directory.read_config()


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = SearchDir(tmp_path)
    directory.append(one(1))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="is full: free some space, then go on with --resume"):
            directory.append(one(2))
        with pytest.raises(UserError, match="is full"):
            directory.write_config({})
    assert directory.read_trials() == [one(1)] and not (tmp_path / "config.json").exists()


def test_a_loss_that_is_no_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        SearchDir(tmp_path).append(replace(one(1), status="finished", loss=float("nan")))
    assert SearchDir(tmp_path).read_trials() == []


def test_mlflow_gets_what_can_be_plotted_and_no_loss_of_a_diverged_run() -> None:
    from hpt.tracking.views import run_name, trial_metrics

    gpu = replace(
        one(1), status="finished", loss=3.0, device="NVIDIA H100 80GB HBM3", flops=989.5e12, train_seconds=2.0
    )
    metrics = trial_metrics(gpu)
    assert metrics["mfu"] == pytest.approx(0.5) and metrics["log10_lr"] == pytest.approx(-3)
    lost = trial_metrics(one(2))
    assert "final_val_loss" not in lost and "mfu" not in lost
    assert run_name(replace(RUN, lr=1e-3), 24_576) == "lr 1.00e-03, 370k, 24.6k tokens"
