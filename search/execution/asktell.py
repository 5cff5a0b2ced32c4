"""A search without a process that must live: its state is the directory, a call takes the lock for milliseconds.

What was asked for and not told runs under a lease; when it has expired, the trial may be asked for again. Strategies
are pure functions of the history, so the decisions are those of a search inside Ray. No torch, no Ray.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from filelock import FileLock, Timeout

from search.budget import Budget, CostModel
from search.execution.external.command import Command
from search.execution.external.losses import Source
from search.execution.session import Session
from search.execution.store import SearchDir
from search.records import Problem, Proposal, Recommendation, Trial
from search.strategy import DONE, Done, Strategy
from trainer.config import RunConfig, from_dict, to_dict
from trainer.errors import UserError
from trainer.files import write_atomic

LOCK_SECONDS = 30.0
LEASE_SECONDS = 6 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Lease:
    proposal: Proposal
    asked: float
    """Seconds since the epoch."""
    until: float


@dataclass
class AskTell:
    """Of one search directory that `hpt.search --ask-only` or `hpt.Search.create` has begun."""

    directory: SearchDir
    strategy: Strategy
    problem: Problem
    trainer: Command | None = None
    clock: Callable[[], float] = time.time
    seen: list[Trial] = field(default_factory=list[Trial])

    @staticmethod
    def open(directory: SearchDir, load: Callable[[str], type[Strategy]], again: str | None = None) -> AskTell:
        """What was begun in a directory. again: the strategy's name, where it is code of somebody's own."""
        found = directory.read_config("asked")["asked"]
        name = found["strategy"]
        if ":" in name and name != again:
            raise UserError(f"{directory.path} is searched by {name}, code of its own: name it again to have it run.")
        return AskTell(directory, from_dict(load(name), found["settings"]), problem_from(found["problem"]),
                       trainer_from(found.get("trainer")))  # fmt: skip

    def document(self, name: str) -> dict[str, Any]:
        """What `open` reads. name: of the strategy."""
        return {"strategy": name, "settings": to_dict(self.strategy), "problem": to_dict(self.problem),
                "trainer": None if self.trainer is None else to_dict(self.trainer)}  # fmt: skip

    # --- the three questions ----------------------------------------------------------------------------------------

    def ask(self, count: int = 1, lease: float = LEASE_SECONDS, go_on: bool = False) -> list[Proposal] | Done:
        """Up to so many trials to run now; [] to wait for those that run; DONE when there will be none. go_on: though
        the newest trials have all failed alike."""
        with self._locked() as leases:
            session, now = self._session(leases), self.clock()
            if session.hopeless() and not go_on:
                return DONE
            answer = session.next(count)
            if isinstance(answer, Done):
                return DONE
            for proposal in answer:
                leases[proposal.id] = Lease(proposal=proposal, asked=now, until=now + lease)
            if answer:
                self._write(leases)
            return answer

    def tell(
        self,
        name: str,
        loss: float | None = None,
        *,
        diverged: bool = False,
        failed: str = "",
        seconds: float | None = None,
        tokens: float | None = None,
    ) -> bool:
        """How a trial ended; False: it was told before, the same. UserError for what cannot be, and nothing is changed.

        seconds: that it took its device; None: since it was asked for. tokens: after which the loss was measured.
        """
        outcome = _outcome(name, loss, diverged, failed)
        with self._locked() as leases:
            session = self._session(leases)
            before = session.history.get(name)
            if before is not None:
                if (before.status, before.loss) == (outcome["status"], outcome["loss"]):
                    return False
                was = before.status if before.loss is None else f"loss {before.loss:g}"
                raise UserError(
                    f"Trial {name} was told before, otherwise ({was}): what is in a history stays as it is."
                )
            if name not in leases:
                asked = ", ".join(list(leases)[:5]) or "none"
                raise UserError(f"Nobody asked for a trial {name!r} here; asked for and not told: {asked}.")
            lease = leases.pop(name)
            proposal = lease.proposal
            if tokens is not None and abs(tokens - proposal.horizon) > max(
                proposal.run.batch, 0.001 * proposal.horizon
            ):
                raise UserError(
                    f"Trial {name} is to be judged after {proposal.horizon:,} tokens, and its loss is of {tokens:,.0f}."
                )
            took = max(0.0, self.clock() - lease.asked) if seconds is None else seconds
            cost = session.problem.cost.forecast(proposal.run, proposal.train_tokens)
            trial = session.billed(proposal, {**outcome, "flops": cost.flops}, took)
            self.directory.append(trial)
            self.seen.append(trial)
            self._write(leases)
        return True

    def recommend(self) -> Recommendation:
        """The answer that the history supports."""
        with self._locked() as leases:
            return self.strategy.recommend(self._session(leases).history)

    # --- the state --------------------------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Trial]:
        with self._locked():
            return list(self._trials())

    def running(self) -> dict[str, Lease]:
        """Leases that have not expired."""
        with self._locked() as leases:
            return {name: lease for name, lease in leases.items() if lease.until > self.clock()}

    def _session(self, leases: dict[str, Lease]) -> Session:
        now, trials = self.clock(), self._trials()
        running = {name: lease.proposal for name, lease in leases.items() if lease.until > now}
        seedless = self.trainer is not None and not self.trainer.can.seeds
        session = Session(self.strategy, self.problem, trials, running, seedless=seedless, patience=3)
        for name, proposal in running.items():
            session.purse.hold(name, session.upper(proposal))
        return session

    def _trials(self) -> list[Trial]:
        self.seen = self.directory.read_trials_again()
        return self.seen

    @property
    def _path(self) -> Any:
        return self.directory.path / "leases.json"

    @contextmanager
    def _locked(self) -> Iterator[dict[str, Lease]]:
        lock = FileLock(self.directory.path / ".lock", timeout=LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"{self.directory.path} is in use by a live search: stop it first, or wait.") from None
        try:
            yield self._read()
        finally:
            lock.release()

    def _read(self) -> dict[str, Lease]:
        if not self._path.exists():
            return {}
        try:
            found = json.loads(self._path.read_bytes())
            return {name: from_dict(Lease, values) for name, values in found.items()}
        except (ValueError, AttributeError, UserError) as error:
            raise UserError(f"{self._path} is damaged ({error}): delete it, and ask again.") from None

    def _write(self, leases: dict[str, Lease]) -> None:
        write_atomic(self._path, json.dumps({name: to_dict(lease) for name, lease in leases.items()}).encode())


def _outcome(name: str, loss: Any, diverged: bool, failed: str) -> dict[str, Any]:
    if sum((loss is not None, diverged, bool(failed))) != 1:
        raise UserError(f"Say one thing of trial {name}: its loss, that it diverged, or why it failed.")
    if failed:
        return {"status": "failed", "loss": None, "error": failed}
    if diverged:
        return {"status": "diverged", "loss": None}
    if isinstance(loss, bool) or not isinstance(loss, int | float):
        raise UserError(f"The loss of trial {name} is {loss!r}, and it must be a number.")
    if not math.isfinite(loss):
        return {"status": "diverged", "loss": None}
    return {"status": "finished", "loss": float(loss)}


def problem_from(values: dict[str, Any]) -> Problem:
    """Of plain JSON values."""
    proxies = values["proxies"]
    return Problem(
        target=from_dict(RunConfig, values["target"]),
        budget=from_dict(Budget, values["budget"]),
        cost=from_dict(CostModel, values["cost"]),
        lr_range=tuple(values["lr_range"]),
        proxies=None if proxies is None else tuple(from_dict(RunConfig, proxy) for proxy in proxies),
        seed=values["seed"],
    )


def trainer_from(values: dict[str, Any] | None) -> Command | None:
    if values is None:
        return None
    return from_dict(Command, {**values, "source": to_dict(from_dict(Source, values["source"]))})
