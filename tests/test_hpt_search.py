"""The search command as a person uses it: real Ray, real MLflow on SQLite, real processes interrupted and killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

from search.execution.store import SearchDir
from trainer.data import prepare
from trainer.loop import Training

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(900)  # real processes, on machines that may be busy


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 documents of sentences with a grammar to learn."""
    rng = random.Random(0)
    nouns, verbs = ["cat", "dog", "bird", "child", "stone", "river"], ["sees", "likes", "finds", "follows"]
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    with open(path, "w") as file:
        for _ in range(200):
            words = [f"The {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}." for _ in range(120)]
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


def arguments(corpus: Path, name: str) -> list[str]:
    return [
        "--corpus", str(corpus), "--tokenizer", "bpe:300", "--tokens", "96000", "--batch", "512", "--name", name,
        "--budget-runs", "2", "--hyperband.max-resource", "9",  # what is cut off is billed, and must not cost a trial
        "--set", "model.depth=1", "model.width=32", "model.heads=2", "model.context=32", "model.vocabulary=300",
        "data.val_tokens=1024", "data.epochs=10", "warmup=400",  # it fits into the first rung, so that trunks go on
    ]  # fmt: skip


def start(folder: Path, argv: list[str]) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return subprocess.Popen(
        [sys.executable, "-m", "hpt.search", *argv],
        cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def run(folder: Path, argv: list[str], code: int = 0) -> str:
    process = start(folder, argv)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == code, output
    assert "Traceback" not in output
    return output


def wait_for_trials(process: subprocess.Popen[str], directory: SearchDir, count: int) -> None:
    deadline = time.monotonic() + 300
    while len(directory.read_trials()) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def decisions(directory: SearchDir) -> dict[str, Any]:
    return {t.id: (t.run, t.horizon, t.parent, t.status, t.loss) for t in directory.read_trials() if t.loss}


@pytest.fixture(scope="module")
def finished(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which a search ran undisturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(folder, arguments(corpus, "tiny"))


def test_search_finds_an_lr_and_says_what_it_cost(finished: tuple[Path, str]) -> None:
    folder, output = finished
    directory = SearchDir(folder / "searches" / "tiny")
    answer = directory.read_recommendation()
    assert f"Recommended max lr: {answer['lr']:.3g}" in output
    for words in ("50 % interval", "90 % interval", "stab", "FLOPs", "of the target run", "hpt.ui"):
        assert words in output, words
    low, high = answer["interval90"]
    assert low < answer["interval50"][0] < answer["lr"] < answer["interval50"][1] < high
    trials = directory.read_trials()
    target = directory.read_config()["target"]
    assert answer["bill"]["share_of_target"] <= 2.0 and len(trials) > 10
    assert max(t.horizon for t in trials) <= target["tokens"]
    promoted = [t for t in trials if t.parent]
    assert promoted and all(0 < t.start < t.horizon for t in promoted)
    assert not list(directory.checkpoints.glob("*")), "nothing can be promoted any more"
    assert (directory.path / "u_curves.svg").stat().st_size > 5_000


def test_mlflow_has_parent_and_children(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    parent = next(r for r in runs if r.data.tags["hpt.role"] == "search")
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    trials = SearchDir(folder / "searches" / "tiny").read_trials()
    assert {r.data.tags["hpt.trial"] for r in children} == {t.id for t in trials} and len(children) == len(trials)
    one = next(r for r in children if r.data.tags["hpt.status"] == "finished")
    assert {"lr", "log10_lr", "final_val_loss", "val_loss", "tokens_per_second"} <= set(one.data.metrics)
    assert {"lr", "N_total", "D", "B"} <= set(one.data.params) and "hpt.rung" in one.data.tags
    assert all(r.info.status in ("FINISHED", "FAILED") for r in runs)
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"config.json", "recommendation.json", "u_curves.svg"} <= names


def test_interrupted_killed_and_resumed_decides_the_same(
    corpus: Path, tmp_path: Path, finished: tuple[Path, str]
) -> None:
    directory = SearchDir(tmp_path / "searches" / "tiny")
    for name in ("hpt_data", "scaling", "search", "trainer"):  # the user's own, where the search is started
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the user was imported')")
    process = start(tmp_path, arguments(corpus, "tiny"))
    wait_for_trials(process, directory, 4)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "--resume searches/tiny" in output and "Traceback" not in output
    before = decisions(directory)
    process = start(tmp_path, ["--resume", "searches/tiny"])
    wait_for_trials(process, directory, len(before) + 4)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=120)
    with open(directory.path / "trials.jsonl", "a") as file:
        file.write('{"id": "torn')  # as if the power went in the middle of a line
    run(tmp_path, ["--resume", "searches/tiny"])
    undisturbed = SearchDir(finished[0] / "searches" / "tiny")
    assert decisions(directory) == decisions(undisturbed)
    assert directory.read_recommendation()["lr"] == undisturbed.read_recommendation()["lr"]


def test_a_search_recorded_by_an_earlier_version_goes_on(corpus: Path, tmp_path: Path) -> None:
    """Begun with hpt 0.1.0 (2026-11-24), the last two trials lost; then the final run from it."""
    recorded, path = ROOT / "tests" / "recorded" / "search", tmp_path / "searches" / "recorded"
    path.mkdir(parents=True)
    (tmp_path / "text.jsonl").write_bytes(corpus.read_bytes())
    (path / "config.json").write_bytes((recorded / "config.json").read_bytes())
    lines = (recorded / "trials.jsonl").read_text().splitlines(keepends=True)
    (path / "trials.jsonl").write_text("".join(lines[:-2]))
    run(tmp_path, ["--resume", "searches/recorded"])
    before, after = decisions(SearchDir(recorded)), decisions(SearchDir(path))
    assert before.keys() == after.keys()
    for name, (*decided, loss) in before.items():
        assert list(after[name][:-1]) == decided and after[name][-1] == pytest.approx(
            loss, rel=0.02
        )  # other processors
    train = [sys.executable, "-m", "hpt.train", "--from", "searches/recorded", "--quiet"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(train, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "runs" / "recorded" / "run.json").read_text())
    assert made["lr"] == SearchDir(path).read_recommendation()["lr"]


@pytest.mark.slow
def test_loggers_away_are_said_once_and_filled_in_later(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow, and W&B where it is installed."""
    log = ["--log", "wandb", "tensorboard"] if find_spec("wandb") and find_spec("tensorboard") else []
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    argv = [*arguments(corpus, "away"), "--strategy", "early-stopping", "--early-stopping.trials", "3"]
    output = run(tmp_path, [*argv, "--tracking-uri", "http://127.0.0.1:9", *log])
    assert output.count("does not answer") == 1 and "Recommended max lr" in output
    assert output.count("--log wandb has failed") == bool(log)
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(tmp_path, ["--resume", "searches/away", *log])
    if log:
        path = tmp_path / "searches" / "away"
        trials = {t.id for t in SearchDir(path).read_trials() if not t.aside}
        assert trials == set((path / "wandb" / "trials.txt").read_text().split())
        assert trials | {"answer"} == {folder.name for folder in (path / "tensorboard").iterdir()}
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("away")
    assert experiment and len(client.search_runs([experiment.experiment_id])) == 1 + 1 + 3


@pytest.mark.slow
def test_a_masked_model_is_searched_and_scored_on_tasks(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real Ray, real MLflow: the cost of tasks is in plan and bill, the scores in every record."""
    monkeypatch.setenv("HPT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache" / "evals").mkdir(parents=True)
    pair = {"sentence_good": "The cat sees the dog.", "sentence_bad": "The cat the sees dog."}
    (tmp_path / "cache" / "evals" / "blimp.jsonl").write_text((json.dumps(pair) + "\n") * 20)
    argv = [*arguments(corpus, "masked"), "family=bert", "model.vocabulary=301", "--tasks", "blimp", "--task-limit"]
    output = run(tmp_path, [*argv, "9", "--strategy", "early-stopping", "--early-stopping.trials", "4", "--slots", "1"])
    assert "each finished trial is scored on blimp, 9 items of each" in output and "Recommended max lr" in output
    directory = SearchDir(tmp_path / "searches" / "masked")
    trials = [t for t in directory.read_trials() if t.status == "finished"]
    assert trials and all(0 <= t.scores["blimp/acc"] <= 1 and t.bits_per_byte is None for t in trials)
    assert "<th>blimp" in (directory.path / "report.html").read_text().replace("<th scope=col>", "<th>")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("masked")
    assert experiment is not None
    children = [r for r in client.search_runs([experiment.experiment_id]) if "blimp/acc" in r.data.metrics]
    assert len(children) == len(trials) and children[0].data.params["model.causal"] == "False"


@pytest.mark.slow
def test_trials_packed_together_are_the_same_trials(corpus: Path, tmp_path: Path) -> None:
    argv = [*arguments(corpus, "packed"), "--strategy", "early-stopping", "--early-stopping.trials", "4"]
    run(tmp_path, [*argv, "--pack", "4", "--slots", "1"])
    trials = [t for t in SearchDir(tmp_path / "searches" / "packed").read_trials() if t.id != "calibration"]
    assert [t.pack for t in trials] == [4] * 4
    data = prepare(trials[0].run.data, vocabulary=300)
    torch.set_flush_denormal(True)  # as workers do
    for trial in trials:
        *_, last = Training(trial.run, data).reports(trial.horizon)
        assert last.val_loss == pytest.approx(trial.loss, rel=1e-3)  # threads add in another order
    torch.set_flush_denormal(False)
