"""The final run: from a search, resumed after an interruption, with the search's other settings."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from hpt.train import main
from search.execution.store import SearchDir
from search.records import Recommendation
from trainer.config import DataConfig, ModelConfig, RunConfig, to_dict
from trainer.errors import UserError
from trainer.loop import Training


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search directory with a recommendation for a tiny target."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    rng = random.Random(0)
    with open("text.jsonl", "w") as file:
        for _ in range(100):
            text = " ".join(rng.choice(["one two", "three four", "five six"]) for _ in range(200))
            file.write(json.dumps({"text": text}) + "\n")
    model = ModelConfig(depth=1, width=32, heads=2, context=32, vocabulary=300)
    data = DataConfig(corpus=str(tmp_path / "text.jsonl"), tokenizer="bpe:300", val_tokens=512, epochs=99)
    target = RunConfig(model=model, data=data, tokens=128 * 60, batch=128, schedule="wsd")
    directory = SearchDir(tmp_path / "searches" / "mine")
    directory.write_config({"id": "abc", "target": to_dict(target)})
    answer = Recommendation(lr=4e-3, weight_decay=0.05, settings={"parametrisation": "mup", "base_width": 16})
    directory.write_recommendation(answer, {})
    return directory.path


def test_trains_what_the_search_recommends(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--from", str(searched)]) == 0
    run = json.loads(Path("runs/mine/run.json").read_text())
    assert (run["lr"], run["weight_decay"], run["parametrisation"]) == (4e-3, 0.05, "mup")
    result = json.loads(Path("runs/mine/result.json").read_text())
    assert result["status"] == "finished" and len(result["curve"]) == 20
    told, page = capsys.readouterr().out, Path("runs/mine/report.html").read_text()
    assert f"validation loss {result['loss']:.4f}" in told and "runs/mine/report.html" in told
    assert f"{result['loss']:.4f} nats a token" in page and result["usd"] is None
    import mlflow

    found = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).search_experiments(filter_string="name = 'mine'")
    runs = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"]).search_runs([found[0].experiment_id])
    assert runs[0].data.tags["hpt.search"] == "abc" and "final_val_loss" in runs[0].data.metrics


def test_interrupted_it_goes_on_with_the_same_losses(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["--from", str(searched), "--out", "whole"]) == 0
    step = Training.train_step

    def interrupted(self: Training):  # type: ignore[no-untyped-def]
        if self.step == 33:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Training, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(["--from", str(searched), "--out", "parts"])
    monkeypatch.setattr(Training, "train_step", step)
    assert main(["--from", str(searched), "--out", "parts"]) == 0
    whole, parts = (json.loads(Path(p, "result.json").read_text()) for p in ("whole", "parts"))
    assert whole["loss"] == parts["loss"]


def test_divergence_says_so(
    searched: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--from", str(searched), "--set", "loss_cap=0.01"]) == 1
    assert "a loss of" in capsys.readouterr().out


def test_bad_input(searched: Path) -> None:
    with pytest.raises(UserError, match="Give --lr, or --from"):
        main(["--target", "laptop"])
    with pytest.raises(UserError, match="is not a search directory"):
        main(["--from", "nowhere"])
    main(["--from", str(searched)])
    with pytest.raises(UserError, match="holds another run"):
        main(["--from", str(searched), "--lr", "1e-3"])
    SearchDir(searched).write_recommendation(replace(Recommendation(lr=None), reasons=("all diverged",)), {})
    with pytest.raises(UserError, match="recommends no lr .all diverged."):
        main(["--from", str(searched), "--out", "other"])
