"""Faults done to real searches: pytest -m faults. What a fault leaves is compared with the undisturbed search."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.budget import Spending
from search.execution.store import SearchDir
from search.records import Trial

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[1]
PATIENCE = 1500
SMALL = [
    "--corpus", "text.jsonl", "--tokenizer", "bpe:300", "--tokens", "48000", "--batch", "512", "--budget-runs", "40",
    "--strategy", "hyperband", "--hyperband.units", "9", "--hyperband.max-resource", "9", "--set", "model.depth=1",
    "model.width=32", "model.heads=2", "model.context=32", "model.vocabulary=300", "data.val_tokens=1024",
    "data.epochs=10",
]  # fmt: skip


class Place:
    """A folder with a corpus and a cache of its own, in which searches are made."""

    def __init__(self, folder: Path, name: str = "tiny") -> None:
        self.folder, self.name = folder, name
        self.directory = SearchDir(folder / "searches" / name)
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", "HPT_CACHE_DIR": str(folder / "cache")}
        self.env["RAY_worker_niceness"] = "0"  # beside other work, processes of niceness 15 do next to nothing
        rng = random.Random(0)
        nouns, verbs = ["cat", "dog", "bird", "child", "stone", "river"], ["sees", "likes", "finds", "follows"]
        texts = [
            " ".join(f"The {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)}." for _ in range(120))
            for _ in range(200)
        ]
        (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        self.first = [*SMALL, "--name", name]
        self.again = ["--resume", f"searches/{name}"]

    def start(self, argv: list[str], **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "hpt.search", *argv], cwd=self.folder, env={**self.env, **env}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def run(self, argv: list[str], code: int = 0, **env: str) -> str:
        return ended(self.start(argv, **env), code)

    def until(self, process: subprocess.Popen[str], trials: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.directory.read_trials()) < trials:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def decided(self) -> dict[str, Any]:
        """To the last bit; how long it took, and from where it went on, is another matter."""
        trials = [t for t in self.directory.read_trials() if not t.aside]
        return {t.id: (t.run, t.horizon, t.status, t.loss, t.curve, t.train_curve[-1:]) for t in trials}

    def cut_off(self) -> list[Trial]:
        return [t for t in self.directory.read_trials() if t.tags.get("stage") == "cut off"]


def ended(process: subprocess.Popen[str], code: int) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, output
    for word in ("Traceback", "SIGABRT", "Stack trace", "Fatal", "core_worker"):
        assert word not in output, output
    return output


def child(process: subprocess.Popen[str], name: str) -> psutil.Process:
    """A process below this one, by what its command line begins with."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for found in psutil.Process(process.pid).children(recursive=True):
            try:
                if name in " ".join(found.cmdline())[:200] or found.name() == name:
                    return found
            except psutil.Error:
                continue
        time.sleep(0.1)
    raise AssertionError(f"there is no process {name}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    place.run(place.first)
    found = place.decided()
    assert len(found) > 12 and not place.cut_off() and not (place.directory.path / "running.json").exists()
    return found


def goes_on(place: Place, undisturbed: dict[str, Any]) -> str:
    output = place.run(place.again)
    assert place.decided() == undisturbed and "Recommended max lr" in output
    bill = place.directory.read_recommendation()["bill"]
    spent = sum((t.spending for t in place.directory.read_trials()), Spending())
    assert bill["flops"] == pytest.approx(spent.flops) and bill["seconds"] == pytest.approx(spent.seconds)
    return output


def test_driver_killed(place: Place, undisturbed: dict[str, Any]) -> None:
    process = place.start(place.first)
    place.until(process, 5)
    process.kill()
    process.communicate()
    assert goes_on(place, undisturbed).count("was cut off") == len(place.cut_off()) > 0
    assert all(t.seconds > 0 and t.flops > 0 for t in place.cut_off())


def test_worker_killed(place: Place, undisturbed: dict[str, Any]) -> None:
    process = place.start(place.first)
    place.until(process, 5)
    child(process, "ray::_Trainable").kill()
    output = ended(process, 0)
    assert place.decided() == undisturbed
    assert sum(t.retries for t in place.directory.read_trials()) >= 1 and "it was tried again" in output


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_ray_killed(place: Place, undisturbed: dict[str, Any], name: str) -> None:
    process = place.start(place.first)
    place.until(process, 5)
    child(process, name).kill()
    began = time.monotonic()
    output = ended(process, 1)
    assert time.monotonic() - began < 60
    (line,) = [line for line in output.splitlines() if "--resume" in line]
    assert f"({name}) has died; go on with: python -m hpt.search --resume searches/tiny" in line
    assert place.cut_off()
    goes_on(place, undisturbed)


def test_node_killed(place: Place, undisturbed: dict[str, Any]) -> None:
    """Of four, in the middle; the trunks are in a folder that all see."""
    script = [sys.executable, str(ROOT / "tests" / "lost_search_node.py"), str(place.directory.path)]
    more = ["--slots", "2", "--checkpoints", str(place.folder / "trunks")]
    process = subprocess.Popen(
        [*script, *place.first, *more], cwd=place.folder, env=place.env,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    output = ended(process, 0)
    assert "Ray has 4 nodes with 3 CPUs and no GPU: 2 trials at a time on CPUs" in output
    assert place.decided() == undisturbed
    assert sum(t.retries for t in place.directory.read_trials()) >= 1 and "it was tried again" in output
    assert not list((place.folder / "trunks" / place.name).iterdir())


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT, signal.SIGINT]])
def test_asked_to_end(place: Place, undisturbed: dict[str, Any], signals: list[signal.Signals]) -> None:
    process = place.start(place.first)
    place.until(process, 5)
    for number in signals:
        process.send_signal(number)
    output = ended(process, 130)
    assert output.count("go on with: python -m hpt.search --resume searches/tiny") == 1, output
    goes_on(place, undisturbed)


def test_not_a_number(place: Place) -> None:
    argv = [
        *place.first,
        "--strategy",
        "early-stopping",
        "--early-stopping.centre",
        "1e6",
        "--early-stopping.trials",
        "3",
    ]
    output = place.run(argv)
    assert "No recommendation" in output and "3 diverged" in output
    assert "NaN" not in (place.directory.path / "trials.jsonl").read_text()


@pytest.mark.parametrize("name", ["corpus_train_000000.bin", "corpus_val_000000.bin"])
def test_damaged_shard(place: Place, undisturbed: dict[str, Any], name: str) -> None:
    process = place.start(place.first)
    place.until(process, 5)
    process.kill()
    process.communicate()
    (shard,) = (place.folder / "cache" / "data").rglob(name)
    with open(shard, "r+b") as file:
        file.seek(2048)
        file.write(os.urandom(64))
    goes_on(place, undisturbed)


def test_another_corpus(place: Place) -> None:
    process = place.start(place.first)
    place.until(process, 3)
    process.send_signal(signal.SIGINT)
    ended(process, 130)
    with open(place.folder / "text.jsonl", "a") as file:
        file.write(json.dumps({"text": "Something else. " * 50}) + "\n")
    output = place.run(place.again, 2)
    assert "The corpus has changed since searches/tiny was begun" in output and "then" in output


@pytest.mark.parametrize("harm", [lambda path: path.write_bytes(b"x" * 99), lambda path: path.unlink()])
def test_damaged_checkpoint(place: Place, undisturbed: dict[str, Any], harm: Callable[[Path], Any]) -> None:
    process = place.start(place.first)
    place.until(process, 7)
    process.send_signal(signal.SIGINT)
    ended(process, 130)
    trunks = list(place.directory.checkpoints.glob("*.safetensors"))
    assert trunks
    for path in trunks:
        harm(path)
    goes_on(place, undisturbed)
    assert any("again" in t.tags and not t.start for t in place.directory.read_trials())


@pytest.mark.parametrize("what, after", [
    ("corpus_train_000000.bin", 0), ("config.json", 0), ("trials.jsonl", 0), ("trials.jsonl", 5), ("running.json", 2),
    (".safetensors", 1), ("recommendation.json", 0),
])  # fmt: skip
def test_disk_full(place: Place, undisturbed: dict[str, Any], what: str, after: int) -> None:
    full = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'faulty'}", "HPT_FULL": what, "HPT_FULL_AFTER": str(after)}
    output = place.run(place.first, 2, **full)
    assert "is full: free some space" in output
    if not (place.directory.path / "config.json").exists():
        place.run(place.first)
        assert place.decided() == undisturbed
        return
    if what == "trials.jsonl" and not after:  # the same command, too, where nothing was begun
        assert "Plan" in place.run([*place.first, "--dry-run"])
    goes_on(place, undisturbed)


def test_two_on_one_directory(place: Place) -> None:
    short = [*SMALL, "--strategy", "early-stopping", "--early-stopping.trials", "2"]
    pair = [place.start(short) for _ in range(2)]
    for process in pair:
        ended(process, 0)
    made = [SearchDir(place.folder / "searches" / n) for n in ("laptop-early-stopping", "laptop-early-stopping-2")]
    assert [len(d.read_trials()) for d in made] == [3, 3]
    pair = [place.start([*short, "--name", "one"]) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE)[0] for process in pair]
    assert sorted(process.returncode for process in pair) == [0, 2], outputs
    assert sum("is in use by a live search" in out or "holds a search already" in out for out in outputs) == 1


def test_mlflow_locked_and_broken(place: Place, undisturbed: dict[str, Any]) -> None:
    place.run([*place.first[:-1], "other", "--strategy", "early-stopping", "--early-stopping.trials", "2"])
    database = place.folder / "mlflow.db"
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    output = place.run(place.first)
    assert "Recommended max lr" in output and place.decided() == undisturbed
    assert "--resume completes it" in output or "does not answer" in output
    holder.close()
    assert "review" in place.run(place.again)
    database.write_bytes(b"this is no database" * 1000)
    output = place.run(place.again)
    assert "is broken" in " ".join(output.split()) and "Recommended max lr" in output


def test_mlflow_takes_connections_and_never_answers(place: Place, undisturbed: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        output = place.run([*place.first, "--tracking-uri", address])
    assert output.count("does not answer") == 1 and "Recommended max lr" in output and place.decided() == undisturbed


def test_the_clock_jumps(place: Place, undisturbed: dict[str, Any]) -> None:
    output = place.run(place.first, PYTHONPATH=f"{ROOT}:{ROOT / 'tests' / 'faulty'}", HPT_CLOCK="8")
    assert "Recommended max lr" in output and place.decided() == undisturbed
    assert all(0 <= t.seconds < PATIENCE for t in place.directory.read_trials())


def test_mlflow_created_by_many(tmp_path: Path) -> None:
    code = "import sys; from hpt.tracking.server import connect; connect(sys.argv[1], sys.argv[2])"
    uri, env = f"sqlite:///{tmp_path / 'mlflow.db'}", {**os.environ, "PYTHONPATH": str(ROOT)}
    many = [
        subprocess.Popen([sys.executable, "-c", code, uri, f"e{k % 2}"], env=env, stderr=subprocess.PIPE, text=True)
        for k in range(4)
    ]
    errors = [process.communicate(timeout=PATIENCE)[1] for process in many]
    assert [process.returncode for process in many] == [0] * 4, errors
    rows = sqlite3.connect(tmp_path / "mlflow.db").execute("select name from experiments").fetchall()
    assert {"e0", "e1"} <= {name for (name,) in rows} and len(rows) == len(set(rows))
