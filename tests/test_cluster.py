"""What is submitted to clusters: the files against their schemas, a job on a real head node, a node that is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[1]
TINY = [
    "--set", "model.depth=1", "model.width=32", "model.heads=2", "model.context=64", "data.val_tokens=1024",
    "batch=2048",
]  # fmt: skip


def test_the_aws_cluster_fits_rays_schema() -> None:
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((ROOT / "cluster" / "aws-g5.yaml").read_text())
    jsonschema.validate(cluster, schema)
    worker = cluster["available_node_types"]["g5"]
    assert (
        worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot" and cluster["idle_timeout_minutes"] <= 10
    )


def test_the_rayjob_runs_hpt_and_cleans_up() -> None:
    """The whole was checked against KubeRay's published CRD (ray.io/v1); here, what hpt needs of it."""
    job = yaml.safe_load((ROOT / "cluster" / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    assert spec["entrypoint"].startswith("python -m hpt.train") and spec["shutdownAfterJobFinishes"]
    group = spec["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1" and group["minReplicas"] >= int(
        re.findall(r"--workers (\d+)", spec["entrypoint"])[0]
    )
    assert (
        "memory" in yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
        or "MLFLOW_TRACKING_URI" in spec["runtimeEnvYAML"]
    )


def test_the_rayjobs_image_holds_hpt_and_the_same_ray() -> None:
    """cluster/Dockerfile: its Ray is the job's, and it copies all that installs the packages, and nothing ignored."""
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    spec = yaml.safe_load((ROOT / "cluster" / "rayjob.yaml").read_text())["spec"]["rayClusterSpec"]
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    images = {pod["template"]["spec"]["containers"][0]["image"] for pod in pods}
    assert re.findall(r"-t (\S+)", text) == list(images)
    base, python = re.findall(r"^FROM rayproject/ray:([\d.]+)-py(\d+)-gpu$", text, re.M)[0]
    assert base == spec["rayVersion"] and set(re.findall(r"ray\[[\w,]+\]==([\d.]+)", text)) == {base}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert f">={python[0]}.{python[1:]}," in project["project"]["requires-python"]
    copied = {word for line in re.findall(r"^COPY --chown=\S+ (.*) \S+$", text, re.M) for word in line.split()}
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    assert copied == needed | set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied and all((ROOT / c).exists() for c in copied)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A head node with dashboard and token authentication; the environment in which `ray job submit` finds it."""
    env = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "HOME": str(tmp_path),
        "PYTHONPATH": "",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("a" * 64)
    port = free_port()
    command = ["ray", "start", "--head", "--block", "--num-cpus", "2", "--port", str(free_port())]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(port), "--temp-dir", f"/tmp/hpt-{port}"]
    command += [
        "--dashboard-agent-listen-port",
        str(free_port()),
        "--node-ip-address",
        "127.0.0.1",
        "--disable-usage-stats",
    ]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    yield {**env, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}", "RAY_RUNTIME_ENV_IGNORE_GITIGNORE": "1"}
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def submit(env: dict[str, str], cache: Path, place: Path, *command: str) -> str:
    variables = {"HPT_CACHE_DIR": str(cache), "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}"}
    runtime = json.dumps({"env_vars": variables})
    line = ["ray", "job", "submit", "--working-dir", str(ROOT), "--runtime-env-json", runtime, "--", *command]
    for _ in range(12):  # the head takes a while to be ready
        done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=200)
        if done.returncode == 0 or "submitted successfully" in done.stdout:
            break
        time.sleep(5)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_search_and_its_final_run_are_submitted_as_jobs(head: dict[str, str], cache: Path, tmp_path: Path) -> None:
    search = ["python", "-m", "hpt.search", "--strategy", "early-stopping", "--tokens", "204800"]
    search += ["--out", str(tmp_path / "s"), "--name", "mine", *TINY]
    assert "Recommended max lr" in submit(head, cache, tmp_path, *search)
    train = ["python", "-m", "hpt.train", "--from", str(tmp_path / "s" / "mine"), "--workers", "2"]
    out = submit(head, cache, tmp_path, *train, "--out", str(tmp_path / "run"))
    assert "validation loss" in out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"
    stranger = {**head, "RAY_AUTH_MODE": "disabled"}
    refused = subprocess.run(["ray", "job", "list"], env=stranger, capture_output=True, text=True, timeout=60)
    assert refused.returncode != 0


@pytest.mark.slow
def test_a_lost_node_does_not_lose_the_run(cache: Path, tmp_path: Path) -> None:
    """Three nodes on one machine; one that trains is taken away."""
    command = [sys.executable, str(ROOT / "tests" / "lost_node.py"), str(tmp_path / "run")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "going on from step" in done.stdout
    assert (tmp_path / "run" / "board").read_text() == "with the driver"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished" and result["step"] == 200
