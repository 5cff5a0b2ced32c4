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
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import History, Problem, Proposal, Trial
from search.strategy import Done
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


def test_slots_keep_their_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these trials is far shorter than a process takes to start."""
    jobs: dict[int, set[str]] = {}
    stop = tune._AskTell.stop

    def watched(self: tune._AskTell, trial_id: str, result: Mapping[str, Any]) -> bool:
        jobs.setdefault(result["pid"], set()).add(trial_id)
        return stop(self, trial_id, result)

    monkeypatch.setattr(tune._AskTell, "stop", watched)
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


def test_what_has_not_begun_when_the_money_is_spent_is_given_back(tmp_path: Path) -> None:
    """It may be proposed again with a larger budget; what runs is ended."""
    problem = Problem(target=smallest(), budget=Budget(usd=1e-9), cost=CostModel(usd_per_hour=1e6))
    session = Session(strategy=Empty(trials=4), problem=problem)
    with random_data(problem.target.model.vocabulary, 1024) as data:
        asked = tune._AskTell(session, SearchDir(tmp_path), data, SLOTS, 1, lambda *_: None, lambda _: None)
        (running,) = asked.suggest("a")["job"]["proposals"]
        assert set(session.running) == {running.id, "0001"}
        assert asked.stop("a", {"news": []})
        assert set(session.running) == {running.id} and not asked.waiting
        asked.on_trial_complete("a", {"news": []})
        assert [t.status for t in session.trials] == ["failed"] and not session.running
        assert asked.suggest("b") == tune.Searcher.FINISHED
