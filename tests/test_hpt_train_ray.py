"""The final run under Ray Train, with real processes that are really killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLAGS = [
    "--lr", "1e-3", "--save-minutes", "0.0001", "--evaluations", "8", "--set", "precision=fp32",
    "model.depth=1", "model.width=32", "model.heads=2", "model.context=64", "model.vocabulary=300",
    "data.tokenizer=bpe:300", "data.val_tokens=1024", "data.epochs=9999", "batch=2048", "tokens=409600", "warmup=40960",
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    rng = random.Random(0)
    with open(tmp_path / "text.jsonl", "w") as file:
        for _ in range(100):
            text = " ".join(rng.choice(["one two", "three four", "five six"]) for _ in range(200))
            file.write(json.dumps({"text": text}) + "\n")
    return tmp_path


def start(place: Path, out: str, *more: str, **env: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "hpt.train", "--corpus", str(place / "text.jsonl"), "--out", out, *more, *FLAGS]
    uri = f"sqlite:///{place / 'mlflow.db'}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1", **env}
    with open(place / f"{out}.log", "a") as log:
        return subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)


def ended(process: subprocess.Popen, place: Path, out: str) -> dict:
    assert process.wait(timeout=180) == 0, (place / f"{out}.log").read_text()[-3000:]
    return json.loads((place / out / "result.json").read_text())


def wait_for_step(place: Path, out: str, step: int, process: subprocess.Popen) -> None:
    """Until a checkpoint of this step or a later one is there."""
    end = time.monotonic() + 150
    while time.monotonic() < end and process.poll() is None:
        found = sorted((place / out / "checkpoints").glob("step-*.safetensors"))
        if found and int(found[-1].stem.split("-")[1]) >= step:
            return
        time.sleep(0.05)
    pytest.fail(f"step {step} was not reached: {(place / f'{out}.log').read_text()[-3000:]}")


def workers_of(process: subprocess.Popen) -> list[int]:
    """Process ids of the Ray Train workers below `process`."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    table = [line.split(None, 2) for line in lines.splitlines()[1:]]
    below = {str(process.pid)}
    for _ in range(5):
        below |= {pid for pid, parent, _ in table if parent in below}
    return [int(pid) for pid, _, command in table if pid in below and "RayTrainWorker" in command]


@pytest.mark.slow
def test_a_killed_worker_does_not_lose_the_run(place: Path) -> None:
    alone = start(place, "alone")
    many = start(place, "many", "--workers", "2")
    wait_for_step(place, "many", 40, many)
    workers = workers_of(many)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    expected, found = ended(alone, place, "alone"), ended(many, place, "many")
    log = (place / "many.log").read_text()
    assert "going on from step" in log, log
    assert found["status"] == "finished" and found["step"] == 200
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert [t for t, _ in found["curve"]] == [t for t, _ in expected["curve"]]


@pytest.mark.slow
def test_a_killed_driver_does_not_lose_it_either(place: Path) -> None:
    expected = ended(start(place, "alone"), place, "alone")
    for signal_number in (signal.SIGKILL, signal.SIGTERM):
        out = f"run-{signal_number}"
        first = start(place, out, "--workers", "2")
        wait_for_step(place, out, 40, first)
        first.send_signal(signal_number)
        first.wait(60)
        found = ended(start(place, out, "--workers", "2"), place, out)
        assert "going on from step" in (place / f"{out}.log").read_text()
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_with_workers_an_interruption_leaves_a_checkpoint(number: int, code: int, place: Path) -> None:
    first = start(place, "run", "--workers", "2")
    wait_for_step(place, "run", 20, first)
    first.send_signal(number)
    assert first.wait(120) == code, (place / "run.log").read_text()[-3000:]
    result = json.loads((place / "run" / "result.json").read_text())
    assert result["status"] == "stopped" and result["step"] > 0
    assert result["checkpoint"].endswith(f"step-{result['step']:08d}.safetensors")


@pytest.mark.slow
def test_alone_a_request_to_terminate_leaves_a_checkpoint(place: Path) -> None:
    """What a spot machine gets before it goes."""
    expected = ended(start(place, "whole"), place, "whole")
    first = start(place, "parts")
    wait_for_step(place, "parts", 40, first)
    first.terminate()
    assert first.wait(60) == 0
    assert "asked to terminate" in (place / "parts.log").read_text()
    assert ended(start(place, "parts"), place, "parts")["loss"] == expected["loss"]
