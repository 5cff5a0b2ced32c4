"""--log: what TensorBoard and W&B (offline) have of a search and of a final run, and that neither can hinder one."""

from __future__ import annotations

import importlib.machinery
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpt import search, train
from hpt.tracking import mirror as mirrors
from hpt.tracking.mirror import FinalMirror, Mirror
from hpt.tracking.row import name_of
from hpt.tracking.told import FinalRun, SearchRun
from search.execution.store import SearchDir
from search.records import Trial
from trainer.errors import UserError

RECORDED = Path(__file__).parent / "recorded" / "search"
CURVE = [(1000, 5.0), (2000, 4.0)]
ROWS: list[dict[str, Any]] = [{"tokens": tokens, "train_loss": loss, "lr": 1e-3} for tokens, loss in CURVE]


@pytest.fixture
def trials() -> list[Trial]:
    return SearchDir(RECORDED).read_trials()


def searched(folder: Path, *log: str) -> SearchRun:
    return SearchRun(id="s1", name="mine", uri=f"sqlite:///{folder / 'mlflow.db'}", tags={}, params={},
                     folder=folder / "mine", log=log)  # fmt: skip


def final(folder: Path, trial: Trial, *log: str) -> FinalRun:
    return FinalRun(id="f1", experiment="mine", uri=f"sqlite:///{folder / 'mlflow.db'}", tags={}, run=trial.run,
                    folder=folder / "run", log=log)  # fmt: skip


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder)).Reload()
    return [(event.step, pytest.approx(event.value)) for event in read.Scalars(name)]


def test_tensorboard_has_each_trial_once_and_what_was_missing(tmp_path: Path, trials: list[Trial]) -> None:
    pytest.importorskip("tensorboard")
    real = [t for t in trials if not t.aside]
    for told in (trials[:3], trials):  # interrupted, and gone on with
        mirror = Mirror(searched(tmp_path, "tensorboard"), pytest.fail)
        mirror.trials(told)
        assert mirror.close({"lr": 1e-3}, "# lr 0.001", [])
    folder = tmp_path / "mine" / "tensorboard"
    assert name_of(replace(real[0], id="../../x")) == "_.._x"
    assert {path.name for path in folder.iterdir()} == {t.id for t in real} | {"answer"}
    assert scalars(folder / real[0].id, "val_loss") == list(real[0].curve)
    assert not [path for path in folder.parent.iterdir() if path.name != "tensorboard"], "nothing half-written is left"


def test_tensorboard_follows_a_final_run_that_goes_on(tmp_path: Path, trials: list[Trial]) -> None:
    pytest.importorskip("tensorboard")
    for rows in ([*ROWS, {"tokens": 3000, "train_loss": 9.0}], [{"tokens": 3000, "train_loss": 3.0}]):
        mirror = FinalMirror(final(tmp_path, trials[-1], "tensorboard"), pytest.fail)
        mirror.rows(rows)
        assert mirror.close({"status": "finished", "checkpoint": "", "final_val_loss": 3.0}, {"samples.txt": "Once"})
    assert scalars(tmp_path / "run" / "tensorboard", "train_loss") == [*CURVE, (3000, 3.0)]


def test_wandb_offline(tmp_path: Path, trials: list[Trial], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    real = [t for t in trials if not t.aside]
    for _ in range(2):
        mirror = Mirror(searched(tmp_path, "wandb"), pytest.fail)
        mirror.trials(trials)
        assert mirror.close({"lr": 1e-3}, "# lr 0.001", [])
    runs = list((tmp_path / "mine" / "wandb" / "wandb").glob("offline-run-*/*.wandb"))
    named = [path.name for path in runs]
    assert all(named.count(f"run-s1-{t.id}.wandb") == 1 for t in real), "each trial once"
    follower = FinalMirror(final(tmp_path, trials[-1], "wandb"), pytest.fail)
    follower.rows(ROWS)
    assert follower.close({"status": "finished", "checkpoint": ""}, {})
    (kept,) = (tmp_path / "run" / "wandb" / "wandb").glob("offline-run-*/run-f1.wandb")
    assert b"train_loss" in kept.read_bytes() and b"tokens" in kept.read_bytes()


def test_a_logger_that_fails_hinders_nobody(tmp_path: Path, trials: list[Trial]) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "mine").write_text("a file where the folder should be")
    said = list[str]()
    mirror = Mirror(searched(tmp_path, "tensorboard"), said.append)
    for trial in trials:
        mirror.trials([trial])
    assert not mirror.close({"lr": 1e-3}, "# lr 0.001", []) and mirror.lacking == "tensorboard"
    assert len(said) == 1 and said[0].startswith("--log tensorboard has failed (")
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mine")
    assert experiment and len(client.search_runs([experiment.experiment_id])) == 1 + len(trials)


def test_a_missing_package_is_told_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = importlib.machinery.ModuleSpec("wandb", None)  # what `wandb/` beside one's script looks like
    for found in (None, folder):
        monkeypatch.setattr(mirrors, "find_spec", lambda name, found=found: found)
        with pytest.raises(UserError, match=r"^--log wandb needs the package wandb: pip install 'hpt\[wandb\]'\.$"):
            search.main(["--log", "wandb"])
    with pytest.raises(UserError, match="hpt.export --to writes"):
        search.main(["--log", "wandb", "--ask-only"])


def test_the_final_run_is_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    rows = [{"text": " ".join(rng.choice(["one two", "three four"]) for _ in range(200))} for _ in range(40)]
    Path("text.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    sets = ["model.depth=1", "model.width=32", "model.heads=2", "model.context=32", "model.vocabulary=300",
            "data.val_tokens=512", "data.epochs=99", "tokens=2560", "batch=128", "warmup=256"]  # fmt: skip
    argv = ["--lr", "4e-3", "--corpus", "text.jsonl", "--tokenizer", "bpe:300", "--log", "tensorboard", "--set", *sets]
    assert train.main(argv) == 0
    result = json.loads(Path("runs/laptop/result.json").read_text())
    folder = tmp_path / "runs" / "laptop" / "tensorboard"
    assert scalars(folder, "val_loss") == [tuple(point) for point in result["curve"]]
    assert os.listdir(folder)
