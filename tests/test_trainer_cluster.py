"""What a cluster has and could have, on nodes that are made up: the head has no GPU, as in the shipped files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import distributed
from trainer.cluster import Machines
from trainer.distributed import Cluster
from trainer.errors import UserError

ROOT = Path(__file__).parents[1]
FAKE = """
import os, sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
os.environ["RAY_ADDRESS"] = cluster.address
from trainer.local_ray import ray_session
from trainer.cluster import machines
from trainer.distributed import Cluster as Wanted, _of_the_cluster
with ray_session(1, 0):
    print(machines(), flush=True)
    os.environ["RAY_AUTOSCALING_CONFIG"] = sys.argv[1]
    print(machines(), flush=True)
    print(_of_the_cluster(Wanted(workers=4), print).gpu, flush=True)
    os.environ["RAY_AUTOSCALING_CONFIG"] = "/nowhere"
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:A10G": 1})
    cluster.wait_for_nodes()
    print(machines(), flush=True)
    print(_of_the_cluster(Wanted(workers=2), print).gpu, flush=True)
cluster.shutdown()
"""


@pytest.mark.slow
def test_gpus_are_found_where_the_head_has_none(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FAKE, str(ROOT / "cluster" / "aws-g5.yaml")],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=220,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [
        "Ray has 1 node with 1 CPU and no GPU",
        "Ray has 1 node with 1 CPU and no GPU; its autoscaler can add 8 more nodes with GPUs, 1 each",
        "Ray has 1 node with 1 CPU and no GPU; its autoscaler can add 8 more nodes with GPUs, 1 each: training on GPUs",
        "True",
        "Ray has 3 nodes with 3 CPUs and 2 A10G GPUs",
        "Ray has 3 nodes with 3 CPUs and 2 A10G GPUs: training on GPUs",
        "True",
    ]


def test_more_workers_than_there_can_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "machines", lambda: Machines(nodes=1, cpus=2, gpus=0, more_nodes=2, more_gpus=2))
    with pytest.raises(UserError, match="can have 2: use --workers 2"):
        distributed._of_the_cluster(Cluster(workers=4), print)
    monkeypatch.setattr(distributed, "usable_cpus", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said: list[str] = []
    with pytest.raises(UserError, match="64 workers need 64 cores and this machine has 2: use --workers 2"):
        distributed._of_this_machine(Cluster(workers=64), said.append)
    assert distributed._of_this_machine(Cluster(workers=3), said.append).gpu is False and "share 2 cores" in said[0]
    assert distributed._of_this_machine(Cluster(workers=2), said.append) == Cluster(workers=2, gpu=False)
