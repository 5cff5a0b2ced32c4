"""The executor on real Ray: every slot has one process, from the first trial to the last."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trainers_made

from hpt.benches.overhead import Empty, smallest
from search.budget import Budget, CostModel
from search.execution import tune
from search.execution.asktell import AskTell
from search.execution.contract import Job, finish
from search.execution.desk import Desk
from search.execution.external.command import Command
from search.execution.external.losses import source
from search.execution.external.template import split
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import History, Problem, Proposal, Trial
from search.strategies.hyperband import Hyperband
from search.strategy import DONE, Done
from trainer.architecture.counts import run_flops
from trainer.data.synthetic import random_data
from trainer.local_ray import ray_session
from trainer.presets import preset

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


def test_somebody_elses_trainer_is_driven_in_ray_as_by_ask_and_tell(tmp_path: Path) -> None:
    """The same strategy and command, once in Ray, once by calls that know the directory alone: the same history."""
    words = split(f"{sys.executable} {trainers_made.HERE} --lr={{lr}} --width={{width}} --steps={{steps}}")
    where = {"folder": str(tmp_path), "source": source(r"step (?P<step>\d+): .*val loss (?P<loss>NUM)")}
    in_ray, told = (Command(words=words, trials=str(tmp_path / name), **where) for name in ("a", "b"))
    target, strategy = preset("laptop"), Hyperband(max_resource=3)
    problem = Problem(target=target, budget=Budget(flops=0.3 * run_flops(target)), cost=CostModel())
    session = Session(strategy, problem, seedless=True, patience=3)
    with ray_session(1, 0):
        over = tune.execute(
            session, SearchDir(tmp_path / "ray"), None, slots=1, gpu=False, threads=1, trainer=in_ray,
            on_progress=lambda proposal, progress: None, on_trial=lambda trial: None,
        )  # fmt: skip
    search = AskTell(SearchDir(tmp_path / "told"), strategy, problem, told)
    search.directory.path.mkdir()
    while not isinstance(answer := search.ask(), Done):
        for proposal in answer:
            work = told.begin(Job(proposals=(proposal,), data=None, checkpoints="", threads=1))
            search.tell(proposal.id, finish(work)[proposal.id].loss)
    assert over and len(session.trials) > 3
    decided = [[(t.id, t.run, t.status, t.loss) for t in trials] for trials in (session.trials, search.trials)]
    assert decided[0] == decided[1]
    assert all(t.curve and t.train_seconds > 0 for t in session.trials)
    assert strategy.recommend(session.history).lr == search.recommend().lr


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
