"""A search in the forms of other tools, read back by those tools."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import optuna
import pytest

from hpt import export
from search.execution.store import SearchDir
from search.records import Trial
from trainer.errors import UserError

SEARCH = Path(__file__).parent / "recorded" / "search"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SEARCH, tmp_path / "mine"))


@pytest.fixture
def trials(path: Path) -> list[Trial]:
    return [t for t in SearchDir(path).read_trials() if not t.aside]


def test_a_table(path: Path, trials: list[Trial]) -> None:
    assert export.main([str(path)]) == 0
    with open(path / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], float(row["lr"]), float(row["loss"])) for row in rows] == [(t.id, t.lr, t.loss) for t in trials]


def test_a_study(path: Path, trials: list[Trial], tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    assert export.main([str(path), "--to", "optuna", "--out", storage]) == 0
    study = optuna.load_study(study_name="mine", storage=storage)
    assert [(t.params["lr"], t.value) for t in study.trials] == [(t.lr, t.loss) for t in trials]
    assert study.best_value == min(t.loss for t in trials if t.loss is not None)
    assert study.trials[0].intermediate_values == {tokens: loss for tokens, loss in trials[0].curve}
    with pytest.raises(UserError, match="has a study mine already"):
        export.main([str(path), "--to", "optuna", "--out", storage])
    with pytest.raises(UserError, match="give sqlite:///FILE"):
        export.main([str(path), "--to", "optuna", "--out", "nonsense"])


def test_diverged_trials_have_no_value(path: Path, trials: list[Trial], tmp_path: Path) -> None:
    lines = (path / "trials.jsonl").read_text().splitlines()
    broken = [line.replace('"status": "finished"', '"status": "diverged"') for line in lines]
    assert broken != lines
    (path / "trials.jsonl").write_text("\n".join(broken) + "\n")
    storage = f"sqlite:///{tmp_path / 'o.db'}"
    export.main([str(path), "--to", "optuna", "--out", storage])
    states = {t.state for t in optuna.load_study(study_name="mine", storage=storage).trials}
    assert states == {optuna.trial.TrialState.FAIL}


def test_tensorboard(path: Path, trials: list[Trial]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert export.main([str(path), "--to", "tensorboard"]) == 0
    for trial in trials:
        read = accumulator.EventAccumulator(str(path / "tensorboard" / trial.id)).Reload()
        assert [(e.step, e.value) for e in read.Scalars("val_loss")] == [
            (tokens, pytest.approx(loss)) for tokens, loss in trial.curve
        ]
    with pytest.raises(UserError, match="would show both"):
        export.main([str(path), "--to", "tensorboard"])


@pytest.mark.slow
def test_wandb_offline(path: Path, trials: list[Trial]) -> None:
    pytest.importorskip("wandb")
    assert export.main([str(path), "--to", "wandb"]) == 0
    assert len(list((path / "wandb" / "wandb").glob("offline-run-*"))) == len(trials)
