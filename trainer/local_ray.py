"""Ray for the life of a block: a cluster where there is one, else a local one, quiet and on loopback."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

HOME = Path(__file__).resolve().parents[1]
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
    with chdir(HOME if _namesakes() else "."):
        ray.init(**settings)
    try:
        yield
    finally:
        ray.shutdown()


def _namesakes() -> list[Path]:
    """Modules in the working directory that are called like a package of hpt."""
    here = Path.cwd()
    files = [here / f"{name}.py" for name in ("hpt", "scaling", "search", "trainer")]
    packages = [path.with_suffix("") / "__init__.py" for path in files if here != HOME]
    return [path for path in (*files, *packages) if path.exists()]
