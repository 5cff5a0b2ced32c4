"""Runs a session's proposals in this process, without Ray: for a notebook, a test, a machine of one's own.

The desk decides as it does under Ray: money is put aside, trials are stopped in time, what is cut off is billed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from search.execution.contract import Job, Progress, Trainer, Work
from search.execution.desk import Desk
from search.execution.session import Session
from search.execution.store import SearchDir
from search.execution.watch import AHEAD_SECONDS
from search.records import Proposal, Trial
from search.strategy import Done
from trainer.data import Prepared
from trainer.errors import UserError

LOOK_SECONDS = 0.1
JOURNAL_SECONDS = 1.0


def run_alone(
    session: Session,
    directory: SearchDir,
    trainer: Trainer,
    data: Prepared | None,
    *,
    slots: int = 1,
    threads: int = 1,
    on_trial: Callable[[Trial], None] = lambda _: None,
    on_progress: Callable[[Proposal, Progress], None] = lambda *_: None,
) -> None:
    """Until the session is over. KeyboardInterrupt ends what runs, bills it, and goes on to the caller. UserError where
    the search cannot go on."""
    desk = Desk(session, directory.append, slots, on_trial=on_trial, on_progress=on_progress)
    jobs: dict[str, Work] = {}
    try:
        _loop(desk, directory, trainer, data, jobs, slots, threads)
    except BaseException:
        for work in jobs.values():
            work.close()
        desk.cut_off()
        directory.journal([])
        raise
    directory.journal([])
    if desk.error:
        raise UserError(desk.error)


def _loop(
    desk: Desk, directory: SearchDir, trainer: Trainer, data: Prepared | None, jobs: dict[str, Work], slots: int,
    threads: int,
) -> None:  # fmt: skip
    number, journalled, over = 0, 0.0, False
    while True:
        while not over and len(jobs) < slots:
            taken = desk.take(f"job-{number}")
            if isinstance(taken, Done):
                over = True
                break
            if not taken:
                break
            timing = desk.session.problem.cost.timing(taken[0].run)
            job = Job(proposals=tuple(taken), data=data, checkpoints=str(directory.checkpoints), threads=threads,
                      compile=bool(timing and timing.compiled))  # fmt: skip
            jobs[f"job-{number}"] = trainer.begin(job)
            number += 1
        if not jobs and (over or desk.error):
            return
        for name, work in list(jobs.items()):
            enough = desk.news(name, work.advance(LOOK_SECONDS / len(jobs)))
            if enough or work.ended or name in desk.watch():
                work.close()
                desk.gone(name, died=False)
                del jobs[name]
        if time.monotonic() - journalled > JOURNAL_SECONDS:
            directory.journal(desk.bills(AHEAD_SECONDS))
            journalled = time.monotonic()
