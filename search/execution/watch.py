"""What goes on beside the executor's loop: signals, the hard stops of trials, a journal for kill -9, and whether Ray is
alive. No Ray here.

A signal only leaves a note: an exception in the middle of Ray's C++ or of a write would do harm. The loop looks at the
note between two events; where it does not (Ray is dead, and the loop waits for it for ever) the process ends from the
thread.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from search.execution.desk import Desk
from search.execution.store import SearchDir

LOOK_SECONDS = 0.25  # between two looks at what is held for the jobs
JOURNAL_SECONDS = 1.0
AHEAD_SECONDS = 2.5
"""What the journal bills beyond its own time: until the next one, and until workers follow a driver that was killed."""
PATIENCE_SECONDS = 8.0
"""The loop answers a signal within this, or the process ends without it."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Raised in the executor's loop, at a place where nothing is half done."""


@contextmanager
def clean_stops() -> Iterator[None]:
    """SIGTERM and SIGHUP end this block as Ctrl-C does (nohup's ignored SIGHUP stays ignored)."""

    def interrupt(number: int, _: Any) -> None:
        raise KeyboardInterrupt

    with _handlers(interrupt, STOPPING[1:]):
        yield


@contextmanager
def _handlers(handler: Callable[[int, Any], None], numbers: tuple[signal.Signals, ...]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@dataclass
class Watch:
    """Of one executor's loop, for the life of a block."""

    desk: Desk
    directory: SearchDir
    end: Callable[[str], None]
    """Ends the worker process of a job at once."""
    ray_fault: Callable[[], str]
    """What ails Ray; empty: nothing."""
    last_words: Callable[[str], None]
    """Says a sentence where the process ends from here."""
    stopping: Callable[[], None] = lambda: None
    """Hears of the first signal, within LOOK_SECONDS and in the thread: a print in a handler may cut into another."""
    asked: int = 0
    """Signals so far."""
    fault: str = ""
    _since: float = 0.0
    _done: threading.Event = field(default_factory=threading.Event, repr=False)

    def check(self) -> None:
        """Called by the loop between two events."""
        if self.asked or self.fault:
            raise Interrupted(self.fault)

    @contextmanager
    def running(self) -> Iterator[None]:
        def note(number: int, _: Any) -> None:
            self.asked += 1
            self._since = self._since or time.monotonic()
            if self.asked > 1:  # a second Ctrl-C: now
                threading.Thread(target=self._leave, args=("interrupted", 130), daemon=True).start()

        thread = threading.Thread(target=self._work, name="hpt-watch", daemon=True)
        with _handlers(note, STOPPING):
            thread.start()
            try:
                yield
            finally:
                self._done.set()
                thread.join(PATIENCE_SECONDS)

    def _work(self) -> None:
        journalled, told = 0.0, False
        while not self._done.wait(LOOK_SECONDS):
            if self.asked and not told:
                told = True
                self.stopping()
            try:
                for job in self.desk.watch():
                    self.end(job)
                if time.monotonic() - journalled > JOURNAL_SECONDS:
                    self.directory.journal(self.desk.bills(AHEAD_SECONDS))
                    journalled = time.monotonic()
                self.fault = self.fault or self.ray_fault()
            except Exception as error:  # a full disk above all
                self.desk.error = self.desk.error or str(error) or type(error).__name__
            if self.fault:
                self._leave(self.fault, 1)
            if self.asked and time.monotonic() - self._since > PATIENCE_SECONDS:
                self._leave("interrupted", 130)

    def _leave(self, why: str, code: int) -> None:
        """End the process from here: the loop may never come back."""
        try:
            if self.desk.session.lock.acquire(timeout=PATIENCE_SECONDS):
                self.desk.cut_off()
                self.directory.journal([])
        except Exception:  # the journal has it, a second behind
            pass
        try:
            self.last_words(f"{why}; go on with: python -m hpt.search --resume {self.directory.path}")
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
