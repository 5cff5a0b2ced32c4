"""The final run under Ray Train: placed on a cluster, restarted where a worker or node is lost. The only importer of
ray.train; training itself is trainer.final's, and knows nothing of Ray."""

from __future__ import annotations

import os
import tempfile
import threading
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, ScalingConfig
from ray.train import RunConfig as TrainRunConfig
from ray.train.torch import TorchTrainer, get_device

from trainer.board import POLL_SECONDS, Telling, listen, make_board
from trainer.cluster import machines
from trainer.config import from_dict, to_dict
from trainer.devices import usable_cpus
from trainer.errors import UserError
from trainer.final import Plan, Row
from trainer.local_ray import ray_session
from trainer.loop import Training

CROWD = 4  # workers a core: more only wait for each other


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the run is placed."""

    workers: int = 1
    most: int | None = None
    """Elastic: as many workers as there is room for, from `workers` to this."""
    gpu: bool | None = None
    """A GPU for each worker; None: where this machine, or the cluster in RAY_ADDRESS, has some or can add some."""
    failures: int = 8
    """Lost workers or nodes after which it is given up; each time it goes on from the newest checkpoint."""
    threads: int = 1
    """Of a worker without a GPU."""


def run_on_ray(
    plan: Plan,
    cluster: Cluster,
    on_row: Callable[[Row], None],
    say: Callable[[str], None],
    asked: Callable[[], AbstractContextManager[Callable[[], str]]] = lambda: nullcontext(lambda: ""),
) -> None:
    """Train to the end. `on_row` hears every row of the log, in the driver; raises UserError for what a user can mend.
    `asked` is entered once Ray is up (which takes over some signals), and what it gives is called again and again for a
    reason to stop with a checkpoint; empty: none.

    Ray must be running, or is started on this machine.
    """
    most, local = cluster.most or cluster.workers, not os.environ.get("RAY_ADDRESS")
    if local:
        cluster = _of_this_machine(cluster, say)
    with ray_session(most, most if cluster.gpu else 0), asked() as stop:
        if not local:
            cluster = _of_the_cluster(cluster, say)
        board = make_board()
        over, errors = threading.Event(), list[str]()
        listener = threading.Thread(target=listen, args=(board, on_row, say, errors, over, stop), daemon=True)
        listener.start()
        try:
            _fit(plan, cluster, board)
        finally:
            over.set()
            listener.join(timeout=30)
    if errors:
        raise UserError(errors[0])


def _of_this_machine(cluster: Cluster, say: Callable[[str], None]) -> Cluster:
    """With `gpu` known. UserError for more workers than make sense here."""
    import torch

    gpu = torch.cuda.is_available() if cluster.gpu is None else cluster.gpu
    what, have = ("GPU", torch.cuda.device_count()) if gpu else ("core", usable_cpus())
    most = have if gpu else CROWD * have
    if cluster.workers > most:
        raise UserError(
            f"{cluster.workers} workers need {cluster.workers} {what}s and this machine has {have}: "
            f"use --workers {have}, or submit the run to a larger cluster."
        )
    if cluster.workers > have:
        say(f"{cluster.workers} workers share {have} {what}s: --workers {have} would be as fast")
    return replace(cluster, gpu=gpu, most=cluster.most and max(cluster.workers, min(cluster.most, most)))


def _of_the_cluster(cluster: Cluster, say: Callable[[str], None]) -> Cluster:
    """With `gpu` known from the cluster and its autoscaler, which is said."""
    found = machines()
    gpu = found.most_gpus > 0 if cluster.gpu is None else cluster.gpu
    say(f"{found}: training on {'GPUs' if gpu else 'CPUs'}")
    if gpu and cluster.workers > found.most_gpus:
        raise UserError(
            f"{cluster.workers} workers need {cluster.workers} GPUs and the cluster can have {found.most_gpus:.0f}: "
            f"use --workers {found.most_gpus:.0f}, or let it grow (max_workers in its file)."
        )
    return replace(cluster, gpu=gpu)


def _fit(plan: Plan, cluster: Cluster, board: Any) -> None:
    most = cluster.most
    workers: int | tuple[int, int] = cluster.workers if most is None else (cluster.workers, most)
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
                use_gpu=bool(cluster.gpu),
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
            _in_a_thread(trainer.fit)
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

    trainings: list[Training] = []
    telling = Telling(board if first else None)

    def say(text: str) -> None:
        telling.surely({"say": text})

    compile = plan.compile if plan.compile is not None else device.type == "cuda"
    parallel = Parallel.current("fsdp" if plan.shard else "ddp", compile)
    try:
        data = prepare(plan.run.data, vocabulary=plan.run.model.vocabulary)
        for row in final(plan, data, parallel=parallel, device=device, say=say, started=trainings.append):
            if row["status"] == "running":
                trainings[0].interrupted = telling.now(row)
            else:
                telling.surely(row)
            if row["status"] != "running" or row["val_loss"] is not None:
                ray.train.report({k: row[k] for k in ("step", "val_loss", "train_loss")})  # a barrier: all alike
    except UserError as error:  # every worker has met it
        telling.surely({"error": str(error)})


def _in_a_thread(call: Callable[[], object]) -> None:
    """In the main thread Ray Train would take Ctrl-C for itself, and lose what is not in a checkpoint."""
    errors = list[BaseException]()

    def work() -> None:
        try:
            call()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(POLL_SECONDS)
    if errors:
        raise errors[0]


def _sentence(error: BaseException) -> str:
    """Of Ray's errors, those that need no traceback."""
    text = str(error)
    if "storage" in text.lower() and "path" in text.lower() and "accessible" in text.lower():
        return "The workers cannot all write to the run's directory: give --out on storage that all of them share."
    return ""
