"""`python -m hpt.ui`: MLflow's pages on this machine, opened at a search."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from hpt.console import cli
from hpt.tracking.server import experiment_of, tracking_uri
from hpt.tracking.views import WORKFLOW, pages
from trainer.addresses import masked
from trainer.errors import UserError

READY_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True)
class UiConfig(cli.Common):
    """Serve MLflow's pages on loopback until Ctrl-C."""

    search: tyro.conf.Positional[Path | None] = None
    """Directory of a search or a run, whose page's address is printed."""
    port: int = 5000
    """0: any that is free."""
    tracking_uri: str | None = None
    """Of MLflow; default: MLFLOW_TRACKING_URI, else SQLite in the working directory."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(UiConfig, argv, "hpt.ui")
    uri, console = tracking_uri(config.tracking_uri), config.console()
    if uri.startswith("http"):
        console.print(f"MLflow runs already: {masked(uri)}")
        config.answer({"address": masked(uri)}, masked(uri))
        return 0
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise UserError(f"There is no {uri[10:]} yet: make a search first, or give --tracking-uri.")
    port = free_port(config.port)
    page = f"http://127.0.0.1:{port}/"
    shown = {"all": f"{page}#/experiments?{WORKFLOW}"}
    if config.search is not None:
        found = experiment_of(uri, config.search.resolve().name)
        if found is None:
            raise UserError(f"MLflow at {masked(uri)} has nothing called {config.search.resolve().name}.")
        shown = pages(page, found)
    # Few processes: without the job runner and with one worker it takes two of them instead of ten.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["MLFLOW_BACKEND_STORE_URI"] = uri  # not on the command line, which all users of a machine can read
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with console.status("starting MLflow"):
            wait(server, port)
        for name, address in shown.items():
            console.print(f"{name:<7} {address}", soft_wrap=True)
        console.print("Ctrl-C ends it")
        config.answer({"address": page, "pages": shown}, next(iter(shown.values())))
        sys.stdout.flush()
        server.wait()
        raise UserError("MLflow's server has ended by itself: run mlflow server by hand to see why.")
    except KeyboardInterrupt:
        return 0
    finally:
        server.terminate()
        server.wait(20)


def free_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            raise UserError(f"Port {wanted} is taken: give another --port, or 0 for any that is free.") from None
        return probe.getsockname()[1]


def wait(server: subprocess.Popen, port: int) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise UserError("MLflow's server did not start: run mlflow server by hand to see why.")


if __name__ == "__main__":
    cli.run(main)
