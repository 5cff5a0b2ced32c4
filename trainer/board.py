"""Between the first worker of a final run and its driver: rows of the log one way, a reason to stop the other."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainer.final import Row

POLL_SECONDS = 0.5
SURE_SECONDS = 60.0


def make_board() -> Any:
    """The actor. It must live as long as the driver does, so it is where the driver is; and should its process be lost
    all the same, it starts again, empty: rows are for the screen, the log is in the checkpoints."""
    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(_Board).remote()


class _Board:
    """An actor through which the first worker tells the driver how it goes, and the driver that it should stop."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.reason = ""

    def put(self, row: Row) -> str:
        """Why training should stop; empty: it should not."""
        self.rows.append(row)
        return self.reason

    def stop(self, reason: str) -> None:
        self.reason = reason

    def take(self) -> list[Row]:
        rows, self.rows = self.rows, []
        return rows


class Telling:
    """What the first worker tells the driver; the other workers' is silent. Training goes on without a listener."""

    def __init__(self, board: Any | None) -> None:
        self.board, self.answer, self.reason = board, None, ""

    def now(self, row: Row) -> str:
        """Without waiting; returns the driver's newest reason to stop that has arrived."""
        if self.board is None:
            return ""
        if self.answer is not None and ray.wait([self.answer], timeout=0)[0]:
            with contextlib.suppress(RayError):
                self.reason = self.reason or str(ray.get(self.answer))
        self.answer = self.board.put.remote(row)
        return self.reason

    def surely(self, row: Row) -> None:
        """Waits until it is heard, SURE_SECONDS at most: a board that was lost may be on its way back."""
        end = time.monotonic() + SURE_SECONDS
        while self.board is not None and time.monotonic() < end:
            try:
                ray.get(self.board.put.remote(row), timeout=10)
                return
            except RayError:
                time.sleep(POLL_SECONDS)


def listen(
    board: Any,
    on_row: Callable[[Row], None],
    say: Callable[[str], None],
    errors: list[str],
    over: threading.Event,
    stop: Callable[[], str],
) -> None:
    while True:
        last = over.is_set()
        try:
            if reason := stop():  # again each time, for one that was lost forgets it
                board.stop.remote(reason)
            for row in ray.get(board.take.remote(), timeout=10):
                if "error" in row:
                    errors.append(row["error"])
                else:
                    say(row["say"]) if "say" in row else on_row(row)
        except RayError:
            if last:
                return
        if last:
            return
        time.sleep(POLL_SECONDS)
