"""Writing on a thread of its own: nothing waits for it, and nothing fails with it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

W = TypeVar("W")


class Background(Generic[W]):
    """Hands tasks to a writer that is connected first. What ails either is said once, and the work goes on."""

    def __init__(self, name: str, connect: Callable[[], W], ailed: Callable[[Exception], None]) -> None:
        self.name, self._connect, self._ailed = name, connect, ailed
        self.failed = False
        self._queue: queue.Queue[Callable[[W], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name=f"{name}-mirror", daemon=True)
        self._thread.start()

    def put(self, task: Callable[[W], None] | None) -> None:
        """None: there will be no more."""
        self._queue.put(task)

    def ended(self, timeout: float) -> bool:
        """Whether everything is written, after waiting for no longer than `timeout` seconds."""
        self._thread.join(timeout)
        return not self.failed and not self._thread.is_alive()

    def _work(self) -> None:
        writer: W | None = None
        while (task := self._queue.get()) is not None:
            if self.failed:
                continue
            try:
                writer = writer or self._connect()
                task(writer)
            except Exception as error:  # whatever ails a logger, the work goes on
                self.failed = True
                self._ailed(error)
