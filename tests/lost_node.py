"""Run by test_cluster: a final run on a cluster of three nodes, one of which is taken away in the middle, and the
actor through which the driver hears is killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_actors

from hpt.train import main


def take_one_away(cluster: Cluster, nodes: list, out: Path) -> None:
    """Once a few checkpoints are there: the node of one of the workers, without a good-bye."""
    while len(list((out / "checkpoints").glob("step-*"))) < 3:
        time.sleep(0.2)
    alive = list_actors(filters=[("state", "=", "ALIVE")], detail=True)
    board = next(a for a in alive if "_Board" in a.class_name)
    where = "with the driver" if board.node_id == cluster.head_node.node_id else "elsewhere"
    (out / "board").write_text(where)  # elsewhere, the node that goes may be its own
    os.kill(board.pid, signal.SIGKILL)
    busy = {a.node_id for a in alive if "TrainWorker" in a.class_name}
    cluster.remove_node(next(n for n in nodes if n.node_id in busy), allow_graceful=False)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    threading.Thread(target=take_one_away, args=(cluster, nodes, out), daemon=True).start()
    flags = ["--lr", "1e-3", "--workers", "2", "--save-minutes", "0.0001", "--out", str(out), "--set", "tokens=409600"]
    flags += [
        "model.depth=1",
        "model.width=32",
        "model.heads=2",
        "model.context=64",
        "data.val_tokens=1024",
        "batch=2048",
    ]
    code = main(flags)
    ray.shutdown()
    sys.exit(code)
