"""What is shown while a search goes on: what it is at, the time left (a range while it is not known), the money, and
that Ctrl-C was heard."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from hpt.console import progress
from hpt.console.progress import KNOWN, Screen, doing
from hpt.console.screen import plan_table
from hpt.reports.gather import gather
from search.budget import Budget, CostModel
from search.execution import tune
from search.execution.contract import Progress
from search.execution.session import Session
from search.execution.watch import Watch
from search.strategies import STRATEGIES
from trainer.cohorts.calibrate import Calibration
from trainer.presets import laptop

FOUND = gather(Path(__file__).parents[1] / "notebooks" / "data" / "search" / "by-size")


def session(finished: int, usd_per_hour: float = 2.0, slower: float = 1.0) -> tuple[Session, Any]:
    """A search with so many trials ended, which took `slower` times what was forecast."""
    cost = CostModel(usd_per_hour=usd_per_hour, flops_per_second=1e10)
    problem = replace(FOUND.history.problem, budget=Budget(flops=4e14, usd=9.0), cost=cost)
    strategy = STRATEGIES["model-scaling"]()
    made = Session(strategy, problem)
    stages = strategy.plan(made.history)
    for proposal in strategy.ask(made.history, 1000)[: finished + 1]:  # type: ignore[index]
        made.running[proposal.id] = proposal
    for proposal in list(made.running.values())[:finished]:
        seconds = slower * problem.cost.forecast(proposal.run, proposal.train_tokens).seconds
        made.finish(made.billed(proposal, {"status": "finished", "loss": 3.0}, seconds))
    return made, stages


def screen(finished: int, **options: Any) -> Screen:
    made, stages = session(finished, **options)
    return Screen(Console(width=80, file=io.StringIO()), made, stages, 2)


@pytest.mark.parametrize("slower", [0.5, 1.0, 3.0])
def test_the_time_left_is_a_range_while_it_is_not_known(slower: float) -> None:
    """What it comes to in the end lies in the range that was told before, which narrows; it jumps by less than 4 x."""
    ranges = [screen(n, slower=slower).left() for n in range(KNOWN + 2)]
    assert all(low < high for low, high in ranges[:KNOWN]) and all(low == high for low, high in ranges[KNOWN:])
    known = ranges[KNOWN][0]
    assert all(low / 1.01 < known * 1.2 and known < 1.5 * high for low, high in ranges[1:KNOWN])
    middles = [(low * high) ** 0.5 for low, high in ranges]
    assert all(1 / 4 < b / a < 4 for a, b in zip(middles, middles[1:], strict=False))
    assert re.match(r"[\d.]+ \w+.* to [\d.]+ \w+.* left", screen(0).rest()) and "about" in screen(KNOWN).rest()


def test_money_spent_of_money_given() -> None:
    told = screen(4)
    spent = sum(t.usd for t in told.session.trials)
    assert spent > 0 and f"${spent:.2f} of $9.00 spent" in told.rest()
    assert "$" not in screen(4, usd_per_hour=0.0).rest()


def test_running_trials_have_their_loss_and_speed() -> None:
    told = screen(2)
    (running,) = told.session.running.values()
    assert "starting" in told.running_line(running)
    half = running.start + running.train_tokens // 2
    told.progress(running, Progress(tokens=half, train_loss=4.25, train_seconds=2.0))
    line = told.running_line(running)
    assert "50% of" in line and "loss 4.2500" in line and "tokens/s" in line and f"{running.lr:.2e}" in line
    console = Console(width=80, file=io.StringIO())
    console.print(told.draw())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 running" in text and line.strip() in text and "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    told.trial(told.session.billed(running, {"status": "finished", "loss": 3.0}, 1.0))
    assert running.id not in told.news


def test_off_a_terminal_a_line_comes_whether_anything_happens_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.PLAIN_EVERY <= 30
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.05)
    told = screen(3)
    with told:
        time.sleep(0.3)
    lines = told.console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len([line for line in lines if " of " in line and " left" in line]) >= 2
    quiet = Console(width=80, file=io.StringIO())
    with doing(quiet, "timing") as say:
        say("timing shape 3 of 7")
        time.sleep(0.12)
    assert "timing shape 3 of 7, 0 s so far" in quiet.file.getvalue()  # type: ignore[attr-defined]
    count = threading.active_count()
    time.sleep(0.06)
    assert threading.active_count() <= count  # nothing goes on speaking


def test_on_a_terminal_it_is_redrawn() -> None:
    terminal = Console(width=80, file=io.StringIO(), force_terminal=True)
    with doing(terminal, "timing") as say:
        say("timing shape 3 of 7")
        time.sleep(0.2)
    assert "timing shape 3 of 7" in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_timing_says_which_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Calibration(step_seconds=1, typical_seconds=1, first_seconds=1, eval_seconds=1, startup_seconds=1,
                        total_seconds=1, tokens=1)  # fmt: skip
    remote = SimpleNamespace(remote=lambda *_: timed)
    ray = SimpleNamespace(remote=lambda **_: lambda _: remote, get=lambda task, timeout: task)
    monkeypatch.setattr(tune, "ray", ray)
    said = list[str]()
    tune.calibrate_shapes([laptop()] * 3, None, 0, 1, None, say=said.append)  # type: ignore[arg-type]
    assert said == ["timing shape 1 of 3", "timing shape 2 of 3", "timing shape 3 of 3"]


def test_the_first_signal_is_answered_at_once() -> None:
    said, began = list[float](), time.monotonic()
    desk: Any = SimpleNamespace(watch=list, bills=lambda _: [], error="")
    directory: Any = SimpleNamespace(journal=lambda _: None)
    watch = Watch(desk, directory, lambda _: None, str, print, lambda: said.append(time.monotonic() - began))
    with watch.running():
        os.kill(os.getpid(), signal.SIGINT)
        while not said and time.monotonic() - began < 5:
            time.sleep(0.02)
    assert watch.asked == 1 and len(said) == 1 and said[0] < 2
    told = screen(1)
    told.stopping()
    assert told.console.file.getvalue().startswith("stopping")  # type: ignore[attr-defined]


def test_drawing_leaves_the_strategys_history_and_lock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens in other threads: a cache filled there between two lines of `finish` would hide a trial from the
    strategy for good, and a print under the lock would wait for a drawing that waits for the lock."""
    told = screen(3)
    monkeypatch.setattr(Session, "history", property(lambda _: pytest.fail("its history was read")))
    told.session.lock = None  # type: ignore[assignment]
    assert "lr" in told.line() and "left" in told.rest() and told.draw().renderables


def test_where_nothing_was_timed_no_time_is_told() -> None:
    """Somebody else's trainer and a budget in FLOPs: 0 s would be a lie."""
    made, stages = session(0)
    untimed = [replace(stage, cost=replace(stage.cost, seconds=0.0)) for stage in stages]
    shown = Screen(Console(width=80, file=io.StringIO()), made, untimed, 2)
    assert shown.rest() == "how long is not known" and "left" not in shown.line()
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(plan_table(untimed, 2, False))
    told = console.export_text()
    assert "time" not in told and "FLOPs" in told
