"""Run by test_faults: a search on a cluster of four nodes, the head without a CPU; one is taken away."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from hpt.search import main


def take_one_away(cluster: Cluster, nodes: list, trials: Path) -> None:
    """Once five trials are there, a node with a worker: of three, two are enough."""
    while not trials.exists() or len(trials.read_text().splitlines()) < 5:
        time.sleep(0.1)
    busy = {actor.node_id for actor in list_actors(filters=[("state", "=", "ALIVE")])}
    cluster.remove_node(next(n for n in nodes if n.node_id in busy), allow_graceful=False)


if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    trials = Path(sys.argv[1]) / "trials.jsonl"
    threading.Thread(target=take_one_away, args=(cluster, nodes, trials), daemon=True).start()
    code = main(sys.argv[2:])
    ray.shutdown()
    sys.exit(code)
