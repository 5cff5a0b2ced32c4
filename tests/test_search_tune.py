"""The executor on real Ray: every slot has one process, from the first trial to the last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpt.benches.overhead import Empty, smallest
from search.budget import Budget, CostModel
from search.execution import tune
from search.execution.desk import Desk
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import History, Problem, Proposal, Trial
from search.strategy import DONE, Done
from trainer.data.synthetic import random_data
from trainer.local_ray import ray_session

SLOTS = 2


@dataclass(frozen=True, kw_only=True)
class Rungs(Empty):
    """Three at a time, and no more before they have ended: an odd one out leaves a slot with nothing to do."""

    def ask(self, history: History, slots: int) -> list[Proposal] | Done:
        left = 3 - len(history.known) % 3
        if history.running and left == 3:
            return []
        answer = super().ask(history, slots)
        return answer if isinstance(answer, Done) else answer[:left]


@pytest.mark.slow
def test_slots_keep_their_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these trials is far shorter than a process takes to start."""
    jobs: dict[int, set[str]] = {}
    stop = tune._Loop.stop

    def watched(self: tune._Loop, trial_id: str, result: Mapping[str, Any]) -> bool:
        jobs.setdefault(result["pid"], set()).add(trial_id)
        return stop(self, trial_id, result)

    monkeypatch.setattr(tune._Loop, "stop", watched)
    run, ended = smallest(), list[Trial]()
    problem = Problem(target=run, budget=Budget(flops=1e30), cost=CostModel())
    session = Session(strategy=Rungs(trials=30), problem=problem)
    with random_data(run.model.vocabulary, 1024) as data, ray_session(SLOTS, 0):
        over = tune.execute(
            session, SearchDir(tmp_path), data, slots=SLOTS, gpu=False, threads=1,
            on_progress=lambda proposal, progress: None, on_trial=ended.append,
        )  # fmt: skip
    assert over and [t.status for t in ended] == 30 * ["finished"]
    assert len(jobs) == SLOTS and all(len(mine) > 1 for mine in jobs.values())


def test_what_has_not_begun_when_the_money_is_spent_is_given_back() -> None:
    """It may be proposed again with a larger budget; what runs is ended."""
    now, ended = [0.0], list[Trial]()
    problem = Problem(target=smallest(), budget=Budget(usd=1.0), cost=CostModel(usd_per_hour=1800.0))  # 2 s
    session = Session(strategy=Empty(trials=4), problem=problem)
    desk = Desk(session, ended.append, SLOTS, clock=lambda: now[0])
    taken = desk.take("a")
    assert isinstance(taken, list) and set(session.running) == {"0000", "0001"} and len(desk.waiting) == 1
    now[0] = 1.0
    assert desk.watch() == ["a"] and not desk.waiting and not session.running
    assert [(t.status, t.error) for t in session.trials] == [("failed", "the budget was reached")]
    assert ended == session.trials and ended[0].usd == pytest.approx(0.625)  # the quarter of a second to end it, too
    desk.gone("a", died=True)
    assert desk.take("b") is DONE and not session.trials[0].retries


def test_a_trial_whose_worker_dies_is_tried_twice_more(tmp_path: Path) -> None:
    now = [0.0]
    problem = Problem(target=smallest(), budget=Budget(usd=100.0), cost=CostModel(usd_per_hour=3600.0))
    session = Session(strategy=Empty(trials=1), problem=problem)
    desk = Desk(session, SearchDir(tmp_path).append, SLOTS, clock=lambda: now[0])
    for attempt in range(3):
        assert not session.trials
        (proposal,) = desk.take(f"job-{attempt}")  # type: ignore[misc]
        now[0] += 2.0
        desk.gone(f"job-{attempt}", died=True)
    (trial,) = session.trials
    assert (trial.id, trial.status, trial.retries) == (proposal.id, "failed", 2)
    assert trial.error == "its worker process died" and trial.usd == pytest.approx(6.0)
    assert SearchDir(tmp_path).read_trials() == [trial] and desk.take("x") is DONE
