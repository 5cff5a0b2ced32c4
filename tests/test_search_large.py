"""Histories of thousands of trials: what is done for each trial, or while waiting, does not grow with them.

Counted in calls where that says it, in seconds of this process elsewhere: other work on the machine does not
count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from worlds import World, play, problem

from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import History, Proposal, Trial
from search.strategies.hyperband import Hyperband
from search.strategy import Done
from trainer.presets import preset

COUNT, MORE = 5000, 200
SLACK = 4  # a busy machine's cores are slower, too
RUN = preset("laptop")
CURVE = tuple((4096 * k, 5.0 - 0.01 * k) for k in range(50))


def trial(number: int) -> Trial:
    return Trial(
        id=f"x{number}", run=replace(RUN, lr=1e-4 * 1.001**number), horizon=RUN.tokens, status="finished", loss=4.0,
        curve=CURVE[-1:], train_curve=CURVE, seconds=1.0, flops=1e9, tags={"stage": "x"},
    )  # fmt: skip


def seconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


@pytest.fixture(scope="module")
def trials() -> list[Trial]:
    return [trial(k) for k in range(COUNT)]


def test_a_line_is_added_without_reading_those_before(
    tmp_path: Path, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps(trials[0].to_json())
    old = "".join(line.replace('"x0"', f'"x{k}"') + "\n" for k in range(COUNT - MORE))
    (tmp_path / "trials.jsonl").write_text(old)
    directory = SearchDir(tmp_path)
    directory.append(trials[-MORE])
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
    monkeypatch.setattr("os.fsync", lambda _: None)
    took = seconds(lambda: [directory.append(t) for t in trials[1 - MORE :]])
    monkeypatch.undo()
    assert took / MORE < 1e-3 * SLACK
    found: list[Trial] = []
    assert seconds(lambda: found.extend(SearchDir(tmp_path).read_trials())) < 2.0 * SLACK
    assert [t.id for t in found] == [t.id for t in trials] and found[-MORE:] == trials[-MORE:]


def test_who_waits_is_not_asked_again(trials: list[Trial]) -> None:
    class Counting(Hyperband):
        asked = 0

        def ask(self, history: History, slots: int) -> list[Proposal] | Done:
            Counting.asked += 1
            return []

    session = Session(
        Counting(), problem(), list(trials), running={"a": Proposal(id="a", run=trials[0].run, horizon=1)}
    )
    for _ in range(1000):
        assert session.next(2) == []
    assert Counting.asked == 1
    session.finish(replace(trials[0], id="a"))
    session.running["b"] = Proposal(id="b", run=trials[0].run, horizon=1)
    session.next(2)
    assert Counting.asked == 2


def test_hyperband_answers_at_once(trials: list[Trial]) -> None:
    session = play(Session(Hyperband(units=81), problem(runs=4)), World(), 4, until=40)
    history = replace(session.history, trials=(*session.history.trials, *trials))
    session.strategy.ask(history, 2)
    took = min(seconds(lambda: session.strategy.ask(replace(history), 2)) for _ in range(3))
    assert took < 0.05 * SLACK
