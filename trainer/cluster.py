"""What machines Ray has, and what its autoscaler could add: the driver's own CUDA says nothing of a cluster, whose head
often has no GPU."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

BOOTSTRAP = "~/ray_bootstrap_config.yaml"  # where `ray up` puts a cluster's file on its head node
KIND = "accelerator_type:"  # a resource by which Ray names what a node has


@dataclass(frozen=True, kw_only=True)
class Machines:
    """Of a cluster: what runs, and what may come."""

    nodes: int
    cpus: int
    gpus: int
    kinds: tuple[str, ...] = ()
    """Of the GPUs, as Ray names them: A10G."""
    more_nodes: float = 0
    """With GPUs, that the autoscaler could add; infinite where it says no limit."""
    more_gpus: float = 0

    @property
    def most_gpus(self) -> float:
        return self.gpus + self.more_gpus

    def __str__(self) -> str:
        """For people, before anything starts."""
        name = "/".join(self.kinds) + " " * bool(self.kinds) + "GPU"
        found = f"Ray has {_counted(self.nodes, 'node')} with {_counted(self.cpus, 'CPU')}"
        found += f" and {_counted(self.gpus, name)}" if self.gpus else " and no GPU"
        if not self.more_gpus:
            return found
        many = "any number of" if self.more_nodes == math.inf else f"{self.more_nodes:.0f}"
        each = "" if self.more_nodes in (0, math.inf) else f", {self.more_gpus / self.more_nodes:.3g} each"
        return f"{found}; its autoscaler can add {many} more nodes with GPUs{each}"


def machines() -> Machines:
    """Of the Ray that this process is connected to."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    groups = _groups()
    # A group's limit counts its nodes that run already.
    running = sum(1 for node in nodes if node.get("GPU"))
    most_nodes = sum(count for count, resources in groups if resources.get("GPU"))
    most_gpus = sum(count * resources["GPU"] for count, resources in groups if resources.get("GPU"))
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    return Machines(
        nodes=len(nodes),
        cpus=int(sum(node.get("CPU", 0) for node in nodes)),
        gpus=gpus,
        kinds=tuple(sorted({key.removeprefix(KIND) for node in nodes for key in node if key.startswith(KIND)})),
        more_nodes=max(0, most_nodes - running),
        more_gpus=max(0, most_gpus - gpus),
    )


def _groups() -> list[tuple[float, Mapping[str, float]]]:
    """(most nodes, resources of one) of each kind of node that the autoscaler may start: from what it reported to Ray,
    else from the file that `ray up` left on this node. Empty where nothing is known, or nothing scales."""
    from ray._private.state import state  # Ray has no public way to ask

    try:
        config = state.get_cluster_config()
    except Exception:  # private, so it may change: then the file is read
        config = None
    if config is not None and config.node_group_configs:
        return [(math.inf if g.max_count < 0 else g.max_count, dict(g.resources)) for g in config.node_group_configs]
    return _of_file(Path(os.environ.get("RAY_AUTOSCALING_CONFIG", BOOTSTRAP)).expanduser())


def _of_file(path: Path) -> list[tuple[float, Mapping[str, float]]]:
    try:
        content = yaml.safe_load(path.read_text())
        types: dict[str, Any] = content["available_node_types"]
        most = content.get("max_workers", math.inf)
        return [(min(t.get("max_workers", 0), most), t.get("resources") or {}) for t in types.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return []


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
