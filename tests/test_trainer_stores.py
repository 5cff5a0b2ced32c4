"""Runs and searches in an object store: read by the commands, and locked by a lease."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpt import convert, evaluate, generate
from hpt.train import TrainConfig, resolve
from search.execution.store import SearchDir
from search.records import Recommendation
from trainer.checkpoints.copies import here
from trainer.checkpoints.file import pack
from trainer.checkpoints.lease import NAME, lease
from trainer.config import DataConfig, ModelConfig, RunConfig, to_dict
from trainer.data import prepare
from trainer.errors import UserError
from trainer.files import in_a_jobs_folder
from trainer.loop import Training
from trainer.storage import Store

MODEL = ModelConfig(depth=1, width=16, heads=2, context=16, vocabulary=300)


@pytest.fixture(scope="module")
def stored(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a run in a store."""
    folder = tmp_path_factory.mktemp("text")
    lines = (json.dumps({"text": f"{i} one two three four five six " * 9}) for i in range(200))
    (folder / "a.jsonl").write_text("\n".join(lines))
    data = DataConfig(corpus=str(folder / "a.jsonl"), tokenizer="bpe:300", val_tokens=256, epochs=99)
    run = RunConfig(model=MODEL, data=data, tokens=64 * 20, batch=64, lr=1e-3)
    prepared, store = prepare(data), Store(bucket.format("runs/stored"))
    training = Training(run, prepared, torch.device("cpu"))
    for step in (10, 20):
        content = pack(training.tensors(), {**training.state(), "step": step})
        store.write(f"checkpoints/step-{step:08d}.safetensors", content)
    store.write("run.json", json.dumps(to_dict(run)).encode())
    store.write("tokenizer.json", Path(prepared.tokenizer).read_bytes())
    return store.address


def test_commands_read_it(stored: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main([stored, "--prompt", "one", "--max-tokens", "3", "--quiet"]) == 0
    assert evaluate.main([stored, "--tasks", "val", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert "step 20" in out and "runs/stored/evaluations.json" in out
    assert json.loads(Store(stored).read("evaluations.json") or b"")["val"]["step"] == 20
    assert convert.main([stored, str(tmp_path / "model.pt"), "--to", "pt"]) == 0
    base, _, options = stored.partition("?")
    file = here(f"{base}/checkpoints/step-00000010.safetensors?{options}")
    assert file.name == "step-00000010.safetensors" and (file.parent.parent / "tokenizer.json").is_file()


def test_what_is_not_there_is_a_sentence(bucket: str, stored: str) -> None:
    with pytest.raises(UserError, match="neither a run nor a search"):
        generate.main([bucket.format("runs/nothing")])
    base, _, options = stored.partition("?")
    with pytest.raises(UserError, match="There is no checkpoint"):
        generate.main([f"{base}/checkpoints/step-00000099.safetensors?{options}"])


def test_a_final_run_takes_a_search_from_a_store(bucket: str, tmp_path: Path) -> None:
    local, store = SearchDir(tmp_path / "mine"), Store(bucket.format("searches/mine"))
    target = RunConfig(model=MODEL, tokens=640, batch=64)
    local.write_config({"id": "abc", "target": to_dict(target)})
    local.write_recommendation(Recommendation(lr=3e-3), {})
    for name in ("config.json", "recommendation.json"):
        store.write(name, (local.path / name).read_bytes())
    run, tags, _ = resolve(TrainConfig(search=store.address))
    assert run == replace(target, lr=3e-3) and tags == {"hpt.search": "abc"} and here(store.address).name == "mine"


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_lease_is_held_renewed_and_given_back(where: str, bucket: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path) if where == "folder" else bucket.format("runs/leased"))

    def until() -> float:
        return json.loads(store.read(NAME) or b"{}")["until"]

    with lease(store, seconds=9.0, settle=0.0):
        begun, end = until(), time.monotonic() + 60
        while until() == begun and time.monotonic() < end:
            time.sleep(0.1)
        assert until() > begun, "it was renewed"
        with pytest.raises(UserError, match="Another process trains in"), lease(store, settle=0.0):
            pass
    assert store.read(NAME) is None
    store.write(NAME, json.dumps({"holder": "killed", "until": time.time() - 1}).encode())
    with lease(store, settle=0.0):
        assert store.read(NAME) is not None
    store.write(NAME, b"damaged")
    with lease(store, settle=0.0):
        pass


def test_of_two_that_begin_at_once_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, sleep = Store(str(tmp_path)), time.sleep

    def other(seconds: float) -> None:  # it wrote after us
        store.write(NAME, json.dumps({"holder": "other", "until": time.time() + 60}).encode())
        sleep(0)

    monkeypatch.setattr("trainer.checkpoints.lease.time.sleep", other)
    with pytest.raises(UserError, match="just now"), lease(store):
        pass


def test_the_folder_of_a_job_is_known() -> None:
    assert in_a_jobs_folder(Path("/tmp/ray/session_x/runtime_resources/working_dir_files/_ray_pkg_a/runs/a"))
    assert not in_a_jobs_folder(Path("/home/me/runs/a"))
