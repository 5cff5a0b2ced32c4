"""Ray for the life of a block: a cluster where there is one, else a local one, quiet and on loopback."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

from trainer.errors import UserError

HOME = Path(__file__).resolve().parents[1]
NAMES = {"raylet": "process on this machine (raylet)", "gcs_server": "head process (gcs_server)"}
ASK_SECONDS = 5.0
SILENT_SECONDS = 60.0
"""A busy head node may take its time."""
TOKEN = secrets.token_hex(32)
"""Without which nobody speaks to a local Ray of this process."""


@contextmanager
def ray_session(cpus: int, gpus: int) -> Iterator[None]:
    """The cluster in RAY_ADDRESS (or of the job that this is) when there is one; else one of so many CPUs and GPUs."""
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
    # Without this a local Ray listens on all interfaces: it is what Ray itself does on Windows and macOS.
    ray_constants.ENABLE_RAY_CLUSTER = bool(os.environ.get("RAY_ADDRESS"))
    if not os.environ.get("RAY_ADDRESS"):
        # Ray would write its own where all users of the machine can read it (~/.ray/auth_token, mode 0644).
        os.environ.setdefault("RAY_AUTH_TOKEN", TOKEN)
        settings |= {
            "address": "local",
            "num_cpus": cpus,
            "num_gpus": gpus,
            "include_dashboard": False,
            "object_store_memory": 128 * 2**20,
        }
    # Ray puts the working directory first in its workers' path: a trainer.py there would be taken for our package.
    # Ray prints what its processes say of dead workers, with the end of their logs; a trial's record has what matters.
    words, ray_worker.print_to_stdstream = ray_worker.print_to_stdstream, lambda *_, **__: None
    try:
        with chdir(HOME if _namesakes() else "."), _own_handlers():
            _start(settings)
        yield
    finally:
        ray.shutdown()
        ray_worker.print_to_stdstream = words


def _start(settings: dict[str, Any]) -> None:
    """Twice, for a busy machine: Ray gives its processes a time in which to be up."""
    for last in (False, True):
        try:
            ray.init(**settings)
            return
        except Exception as error:  # a time-out at the start is a plain Exception of Ray
            ray.shutdown()
            if last:
                reason = " ".join(str(error).split())[:150]
                where = os.environ.get("RAY_ADDRESS", "this machine")
                raise UserError(f"Ray does not start on {where} ({reason}): look at its load and memory, then try "
                                "again.") from None  # fmt: skip


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and ends the process in the middle of whatever it does; a command that has a
    handler of its own keeps it."""
    main = threading.current_thread() is threading.main_thread()
    mine = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in mine.items():
            if main and callable(handler):
                signal.signal(number, handler)


class RayHealth:
    """Whether Ray is alive: its processes, where this one started them, and whether the cluster answers at all."""

    def __init__(self) -> None:
        children = [] if os.environ.get("RAY_ADDRESS") else psutil.Process().children()
        self.processes = {p: name for p in children if (name := p.name()) in NAMES}
        self.answered = self.asked = time.monotonic()
        self.alone = False

    def fault(self) -> str:
        """What ails it, in words; empty: nothing. Never waits."""
        for process, name in self.processes.items():
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                return f"Ray's {NAMES[name]} has died"
        now = time.monotonic()
        if now - self.asked > ASK_SECONDS and self.answered >= self.asked:
            self.asked = now
            threading.Thread(target=self._ask, name="hpt-ray-health", daemon=True).start()
        if self.answered < self.asked and now - self.asked > SILENT_SECONDS:
            return f"Ray has not answered for {SILENT_SECONDS:.0f} s"
        return "the node of this command has left the cluster" if self.alone else ""

    def _ask(self) -> None:
        try:
            mine = ray.get_runtime_context().get_node_id()
            self.alone = not any(node["NodeID"] == mine and node["Alive"] for node in ray.nodes())
        except Exception:  # it may come back; silence is told after a while
            return
        self.answered = time.monotonic()


def _namesakes() -> list[Path]:
    """Modules in the working directory that are called like a package of hpt."""
    here = Path.cwd()
    files = [here / f"{name}.py" for name in ("hpt", "scaling", "search", "trainer")]
    packages = [path.with_suffix("") / "__init__.py" for path in files if here != HOME]
    return [path for path in (*files, *packages) if path.exists()]
