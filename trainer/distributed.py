"""The final run under Ray Train: placed on a cluster, restarted where a worker or node is lost. The only importer of
ray.train; training itself is trainer.final's, and knows nothing of Ray."""

from __future__ import annotations

import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.exceptions import RayError
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchTrainer, get_device

from trainer.config import from_dict, to_dict
from trainer.errors import UserError
from trainer.final import Plan, Row
from trainer.local_ray import ray_session

POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the run is placed."""

    workers: int = 1
    most: int | None = None
    """Elastic: as many workers as there is room for, from `workers` to this."""
    gpu: bool = False
    failures: int = 8
    """Lost workers or nodes after which it is given up; each time it goes on from the newest checkpoint."""
    threads: int = 1
    """Of a worker without a GPU."""


class _Board:
    """An actor through which the first worker tells the driver how it goes."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def put(self, row: Row) -> None:
        self.rows.append(row)

    def take(self) -> list[Row]:
        rows, self.rows = self.rows, []
        return rows


def run_on_ray(plan: Plan, cluster: Cluster, on_row: Callable[[Row], None], say: Callable[[str], None]) -> None:
    """Train to the end. `on_row` hears every row of the log, in the driver; raises UserError for what a user can mend.

    Ray must be running, or is started on this machine.
    """
    with ray_session(cluster.most or cluster.workers, (cluster.most or cluster.workers) if cluster.gpu else 0):
        board = ray.remote(num_cpus=0)(_Board).remote()
        over, errors = threading.Event(), list[str]()
        listener = threading.Thread(target=_listen, args=(board, on_row, say, errors, over), daemon=True)
        listener.start()
        try:
            _fit(plan, cluster, board)
        finally:
            over.set()
            listener.join(timeout=30)
    if errors:
        raise UserError(errors[0])


def _fit(plan: Plan, cluster: Cluster, board: Any) -> None:
    most = cluster.most
    workers: int | tuple[int, int] = cluster.workers if most is None else (cluster.workers, most)
    _check_room(cluster)
    with tempfile.TemporaryDirectory(prefix="hpt-train-") as scratch:
        # Ray's own bookkeeping must be where every node can write; our checkpoints are in the run's store.
        local = "://" not in plan.store
        storage = str((Path(plan.store) / ".ray").absolute()) if local else scratch
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "plan": to_dict(plan),
                "board": board,
                "threads": cluster.threads,
            },
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=cluster.gpu,
                resources_per_worker={"GPU": 1} if cluster.gpu else {"CPU": 1},
            ),
            run_config=TrainRunConfig(
                name=f"hpt-{uuid.uuid4().hex[:8]}",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=cluster.failures),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            if sentence := _sentence(error):
                raise UserError(sentence) from None
            raise


def _worker(config: dict[str, Any]) -> None:
    """On each worker. What a user can mend is told to the driver through the board and ends all workers in peace."""
    import torch

    from trainer.data import prepare
    from trainer.final import final
    from trainer.parallel import Parallel

    plan, board = from_dict(Plan, config["plan"]), config["board"]
    context = ray.train.get_context()
    first = context.get_world_rank() == 0
    device = get_device()
    if device.type == "cpu":
        torch.set_num_threads(config["threads"])
        torch.set_flush_denormal(True)

    def say(text: str) -> None:
        if first:
            ray.get(board.put.remote({"say": text}))

    compile = plan.compile if plan.compile is not None else device.type == "cuda"
    parallel = Parallel.current("fsdp" if plan.shard else "ddp", compile)
    try:
        data = prepare(plan.run.data, vocabulary=plan.run.model.vocabulary)
        for row in final(plan, data, parallel=parallel, device=device, say=say):
            if first:
                board.put.remote(row)
            if row["status"] != "running" or row["val_loss"] is not None:
                ray.train.report({k: row[k] for k in ("step", "val_loss", "train_loss")})  # a barrier: all alike
    except UserError as error:  # every worker has met it
        if first:
            ray.get(board.put.remote({"error": str(error)}))


def _listen(
    board: Any,
    on_row: Callable[[Row], None],
    say: Callable[[str], None],
    errors: list[str],
    over: threading.Event,
) -> None:
    while True:
        last = over.is_set()
        try:
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


def _check_room(cluster: Cluster) -> None:
    """UserError where this machine cannot hold the workers; a cluster that may scale up is waited for."""
    what = "GPU" if cluster.gpu else "CPU"
    have = int(ray.cluster_resources().get(what, 0))
    if have < cluster.workers and not os.environ.get("RAY_ADDRESS"):
        raise UserError(
            f"{cluster.workers} workers need {cluster.workers} {what}s and Ray has {have}: "
            f"use --workers {max(1, have)}, or submit the run to a larger cluster."
        )


def _sentence(error: BaseException) -> str:
    """Of Ray's errors, those that need no traceback."""
    text = str(error)
    if "storage" in text.lower() and "path" in text.lower() and "accessible" in text.lower():
        return "The workers cannot all write to the run's directory: give --out on storage that all of them share."
    return ""
