"""hpt.ask and hpt.tell: a search that no process of hpt's keeps alive decides as one that Ray runs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trainers_made
from worlds import World, play, problem

import hpt.ask
import hpt.search
import hpt.tell
from search.execution.asktell import AskTell
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import Trial
from search.strategies import STRATEGIES, load
from search.strategy import Done, Strategy
from trainer.errors import UserError

COMMAND = f"{sys.executable} {trainers_made.HERE} --lr={{lr}} --width={{width}} --steps={{steps}} --seed={{seed}}"
LOSS = r"step (?P<step>\d+): .*val loss (?P<loss>NUM)"
BEGIN = ["--target", "laptop", "--budget-runs", "0.5", "--trainer", COMMAND, "--trainer.loss", LOSS, "--name", "s",
         "--ask-only"]  # fmt: skip


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def begun(folder: Path, strategy: Strategy, name: str, runs: float = 1.0) -> AskTell:
    search = AskTell(SearchDir(folder), strategy, problem(runs=runs), clock=Clock())
    search.directory.write_config({"asked": search.document(name)})
    return search


def decided(trials: list[Trial]) -> list[Any]:
    return [(t.id, t.run, t.horizon, t.parent, t.start, t.status, t.loss) for t in trials]


def told(search: AskTell, world: World) -> Iterator[None]:
    """Ask and tell to the end, each in a call that knows the directory alone."""
    while True:
        here = AskTell.open(search.directory, load)
        answer = here.ask()
        if isinstance(answer, Done):
            return
        (proposal,) = answer
        loss = world.loss(proposal.run, proposal.horizon)
        again = AskTell.open(search.directory, load)
        again.tell(proposal.id, loss, diverged=loss is None, seconds=0.0)
        yield


@pytest.mark.parametrize("name", ["hyperband", "transfer", "early-stopping"])
def test_decisions_are_those_of_the_session_that_ray_drives(name: str, tmp_path: Path) -> None:
    strategy, world = STRATEGIES[name](), World(noise=0.01)
    most = 12 if name == "transfer" else 40
    search = begun(tmp_path, strategy, name)
    for _, _ in zip(range(most), told(search, world), strict=False):
        pass
    session = play(Session(strategy, replace(search.problem)), replace(world), until=len(search.trials))
    plain = [replace(t, parent=None, start=0) for t in session.trials]
    mine = [replace(t, parent=None, start=0) for t in search.trials]
    # A told trial leaves no trunk: what hyperband promotes starts again, at the same lr and length.
    assert [(t.id, t.lr, t.run.tokens, t.status) for t in mine] == [(t.id, t.lr, t.run.tokens, t.status) for t in plain]
    assert [t.loss for t in mine] == pytest.approx([t.loss for t in plain])
    assert search.recommend().lr == pytest.approx(strategy.recommend(session.history).lr)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert hpt.search.main([*BEGIN, "--quiet"]) == 0
    return tmp_path / "searches" / "s"


def asked(capsys: pytest.CaptureFixture[str], place: Path, *argv: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = hpt.ask.main([str(place), "--json", *argv])
    return code, json.loads(capsys.readouterr().out)


def test_a_search_from_the_shell_to_its_end(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = 0
    while True:
        code, trials = asked(capsys, place, "-n", "2")
        if code == 4:
            break
        assert code in (0, 3) and (code == 3) == (trials == {"wait": True})
        for trial in trials if code == 0 else []:
            assert f"--lr={trial['lr']}"[:12] in trial["command"] and trial["steps"] * trial["batch"] == trial["tokens"]
            loss = trainers_made.loss(trial["lr"], 2, trial["width"], trial["steps"], trial["seed"])
            assert hpt.tell.main([str(place), trial["id"], "--loss", str(loss), "--quiet"]) == 0
            done += 1
    assert trials["done"] and trials["interval90"][0] < 3e-3 < trials["interval90"][1] and done >= 6
    assert SearchDir(place).read_recommendation()["lr"] == trials["lr"]
    assert len([t for t in SearchDir(place).read_trials() if not t.aside]) == done


def test_while_all_that_may_run_runs_one_waits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = asked(capsys, place, "-n", "100")
    assert first[0] == 0 and len(first[1]) > 1
    assert asked(capsys, place) == (3, {"wait": True})


def test_what_is_not_told_is_asked_again(tmp_path: Path) -> None:
    search = begun(tmp_path, STRATEGIES["hyperband"](), "hyperband")
    (first,) = search.ask(1, lease=60.0)  # type: ignore[misc]
    (other,) = search.ask(1, lease=60.0)  # type: ignore[misc]
    assert other.id != first.id and set(search.running()) == {first.id, other.id}
    search.clock.now += 61.0  # type: ignore[attr-defined]
    assert not search.running()
    (again,) = search.ask(1)  # type: ignore[misc]
    assert again == first
    assert search.tell(other.id, 3.5)  # late, and still welcome
    assert [t.id for t in search.trials] == [other.id] and search.trials[0].seconds == pytest.approx(61.0)


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("nobody", {"loss": 3.0}, "Nobody asked"),
        ("", {"loss": 3.0}, "Nobody asked"),
        (None, {"loss": True}, "must be a number"),
        (None, {"loss": "3"}, "must be a number"),
        (None, {}, "Say one thing"),
        (None, {"loss": 3.0, "diverged": True}, "Say one thing"),
        (None, {"loss": 3.0, "tokens": 17.0}, "is to be judged after"),
    ],
)
def test_what_cannot_be_told(name: str | None, how: dict[str, Any], words: str, tmp_path: Path) -> None:
    search = begun(tmp_path, STRATEGIES["hyperband"](), "hyperband")
    (first,) = search.ask()  # type: ignore[misc]
    with pytest.raises(UserError, match=words):
        search.tell(first.id if name is None else name, **how)
    assert not search.trials and set(search.running()) == {first.id}


def test_twice_the_same_is_no_error_and_otherwise_is_refused(tmp_path: Path) -> None:
    search = begun(tmp_path, STRATEGIES["hyperband"](), "hyperband")
    (first,) = search.ask()  # type: ignore[misc]
    assert search.tell(first.id, 3.25) and not search.tell(first.id, 3.25)
    with pytest.raises(UserError, match="told before, otherwise"):
        search.tell(first.id, 3.5)
    (second,) = search.ask()  # type: ignore[misc]
    assert search.tell(second.id, math.nan) and not search.tell(second.id, diverged=True)
    assert [t.status for t in search.trials] == ["finished", "diverged"]


def test_three_failures_alike_end_it(tmp_path: Path) -> None:
    search = begun(tmp_path, STRATEGIES["hyperband"](), "hyperband")
    for _ in range(3):
        (trial,) = search.ask()  # type: ignore[misc]
        search.tell(trial.id, failed="CUDA is not there")
    assert isinstance(search.ask(), Done)
    answer = search.recommend()
    assert answer.lr is None and "CUDA is not there" in answer.reasons[0]
    assert not isinstance(search.ask(go_on=True), Done)


def test_a_loss_from_a_log(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, trials = asked(capsys, place)
    log = tmp_path / "log.txt"
    log.write_text("step 6: train loss 3, val loss 4.5\nstep 12: train loss 3, val loss 3.75\n")
    assert hpt.tell.main([str(place), trials[0]["id"], "--from-log", str(log)]) == 0
    assert SearchDir(place).read_trials()[-1].loss == 3.75
    with pytest.raises(UserError, match="no loss that matches"):
        hpt.tell.main([str(place), "x", "--from-log", str(log), "--loss-is", "ppl (\\S+)"])


def test_what_was_checked_is_read_as_if_it_were_checked(tmp_path: Path) -> None:
    search = begun(tmp_path, STRATEGIES["hyperband"](), "hyperband")
    for _, _ in zip(range(9), told(search, World()), strict=False):
        pass
    slow, directory = search.directory.read_trials(), SearchDir(tmp_path)
    assert directory.read_trials_again() == slow and (tmp_path / "checked.json").exists()
    quick = SearchDir(tmp_path).read_trials_again()
    assert quick == slow and [t.to_json() for t in quick] == [t.to_json() for t in slow]
    lines = (tmp_path / "trials.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "trials.jsonl").write_text("".join(lines[:-1]) + lines[-1].replace('"lr": ', '"lr": "x'))
    with pytest.raises(UserError, match="line 9 is damaged"):
        SearchDir(tmp_path).read_trials_again()


def test_a_live_search_keeps_others_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.execution.asktell.LOCK_SECONDS", 0.1)
    directory = SearchDir(place)
    directory.lock()
    with pytest.raises(UserError, match="in use by a live search"):
        hpt.ask.main([str(place)])
    directory.unlock()


def test_damaged_leases_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "leases.json").write_text('{"a": 3}')
    with pytest.raises(UserError, match="leases.json is damaged"):
        hpt.ask.main([str(place)])
