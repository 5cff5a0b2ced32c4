"""Shared fixtures. Nothing a test does reaches the user's cache, MLflow or search directories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "TIKTOKEN_CACHE_DIR"):
    os.environ.pop(name, None)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import torch  # noqa: E402

torch.set_num_threads(1)


BUSY = ("cluster", "faults", "hpt_search", "hpt_train_ray", "search_tune", "trainer_cluster")
"""Files whose tests start many processes: one of these at a time, and first, for they take longest."""


def _group(nodeid: str) -> str:
    name = Path(nodeid.partition("::")[0]).stem.removeprefix("test_")
    return "busy" if name in BUSY else name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _group(item.nodeid) != "busy")


class ByFile(LoadScopeScheduling):
    """A file stays in one of pytest's two processes, for its fixtures' sake."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole test session, so that a corpus is prepared once."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["HPT_CACHE_DIR"] = str(path)
    return path


@pytest.fixture(autouse=True)
def small_numbers() -> Iterator[None]:
    """What a test trains in this process flushes them to zero, as workers do; others know them."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture
def shared() -> Path:
    """Real data sets for development; a test that wants one skips without it."""
    path = Path(os.environ.get("HPT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("the development data sets are not here")
    return path


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The address of a bucket on a local server that speaks S3."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_EC2_METADATA_DISABLED="true")
    from pyarrow import fs

    endpoint = f"http://{host}:{port}"
    fs.S3FileSystem(endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True).create_dir("bucket")
    yield f"s3://bucket/{{}}?region=us-east-1&scheme=http&endpoint_override={host}:{port}"
    server.stop()
