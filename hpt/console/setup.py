"""A search made ready: what trials it may run, on what, for how much."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console

from hpt.console.settings import SearchConfig
from search.budget import Budget, CostModel, Spending, Timing
from search.execution.contract import EVERYTHING
from search.execution.external.command import Command
from search.execution.store import SearchDir
from search.records import Problem
from search.shapes.ladder import ladder
from search.strategies.transfer import Transfer
from search.strategy import Strategy
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.devices import peak_speed, usable_cpus
from trainer.errors import UserError
from trainer.evals.score import Reading

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.evals.suite import Suite

RESERVE = 0.1
"""Of the caps on time and money, beyond what is planned: trials take longer than forecast, and the last ones count."""


@dataclass(frozen=True, kw_only=True)
class Slots:
    """How trials share the hardware."""

    count: int
    gpu: int
    """GPUs of a slot."""
    threads: int
    per_device: float
    """Slots that share a device; below 1: devices share a slot (--trainer.devices)."""

    @staticmethod
    def of(config: SearchConfig) -> Slots:
        import torch

        if config.device is not None:
            return Slots(count=config.slots or 1, gpu=int(config.device != "cpu"), threads=1, per_device=1)
        if torch.cuda.is_available():
            devices = config.trainer_options.devices
            count = config.slots or max(1, torch.cuda.device_count() // devices)
            return Slots(count=count, gpu=devices, threads=1, per_device=1 / devices)
        cpus = usable_cpus()
        count = config.slots or cpus
        return Slots(count=count, gpu=0, threads=max(1, cpus // count), per_device=count)

    @staticmethod
    def of_cluster(wanted: int | None, *, nodes: int, cpus: int, gpus: int, more_gpus: float, each: int = 1) -> Slots:
        """The driver's own GPUs say nothing of a cluster, whose head often has none. more_gpus: that may still come;
        each: that a trial takes."""
        if gpus + more_gpus > 0:
            most = max(1, (gpus + more_gpus if math.isfinite(more_gpus) else gpus) // each)
            if wanted is not None and wanted * each > gpus + more_gpus:
                raise UserError(
                    f"--slots {wanted} needs {wanted * each} GPUs and the cluster can have {gpus + more_gpus:.0f}: use "
                    f"--slots {most:.0f}, or let it grow (max_workers in its file)."
                )
            return Slots(count=wanted or int(most), gpu=each, threads=1, per_device=1 / each)
        if wanted is not None and wanted > cpus > 0:
            raise UserError(f"--slots {wanted} needs {wanted} CPUs and the cluster has {cpus}: use --slots {cpus}.")
        count = wanted or max(1, cpus)  # a head without any: its autoscaler may add some
        return Slots(count=count, gpu=0, threads=max(1, cpus // count), per_device=-(-count // nodes))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A search made ready: everything that is decided before the first trial."""

    config: SearchConfig
    slots: Slots
    strategy: Strategy
    target: RunConfig
    data: Prepared | None
    """None: of somebody else's trainer, or where nothing is trained."""
    directory: SearchDir
    resumed: bool
    trainer: Command | None = None
    """None: hpt's own."""
    suite: Suite | None = None
    """Tasks that trials are scored on."""
    begun: SearchConfig | None = None
    """Its configuration before it was topped up."""

    @property
    def checkpoints(self) -> str:
        """Where trunks are, each search's own: nothing for the search directory."""
        address, _, options = (self.config.checkpoints or "").partition("?")
        mine = f"{address.rstrip('/')}/{self.directory.path.name}" if address else ""
        return f"{mine}?{options}" if options else mine

    @property
    def cap(self) -> Budget:
        """What may be spent."""
        return self.config.build_budget(self.target, self.slots.per_device)


def make_problem(setup: Setup, timings: dict[str, Timing], launch: float = 0.0) -> Problem:
    """What the strategy is asked. launch: seconds that one worker takes to start."""
    config, slots = setup.config, setup.slots
    read = setup.suite.reading(setup.target) if setup.suite else Reading(0, 1.0)
    planned = config if setup.strategy.grows else setup.begun or config
    peak = 0.0 if setup.trainer is not None else peak_speed(setup.target)
    if config.device is not None:
        peak = config.assumed.device.peak_tflops * 1e12
    return Problem(
        target=setup.target,
        budget=plans_with(planned, setup.target, slots, launch),
        cost=CostModel(
            usd_per_hour=config.usd_per_hour / slots.per_device,
            flops_per_second=0.0 if timings else peak / slots.per_device,
            timings=timings,
            task_tokens=read.tokens,
            task_share=read.share,
        ),
        lr_range=config.lr_range,
        proxies=menu(setup),
        seed=config.seed,
    )


def menu(setup: Setup) -> tuple[RunConfig, ...] | None:
    """The runs that `transfer` may ask for, where the trainer cannot train all that it would; else None: any."""
    can = EVERYTHING if setup.trainer is None else setup.trainer.can
    strategy = setup.strategy
    if not isinstance(strategy, Transfer) or (can.sizes and can.batches):
        return None
    batches = ((2.0, 1.0, 0.5, 0.25) if strategy.search == "lr,batch" else (1.0, 0.25)) if can.batches else (1.0,)
    return ladder(setup.target, strategy.sizes if can.sizes else (1.0,), strategy.horizons, batches)


def plans_with(config: SearchConfig, target: RunConfig, slots: Slots, launch: float) -> Budget:
    """The budget less what no plan may use."""
    budget, seconds = config.build_budget(target, slots.per_device), launch * slots.count
    held = Spending(seconds, 0.0, seconds / 3600 * config.usd_per_hour / slots.per_device)
    return replace(budget, reserve=RESERVE, held=held)


def on_cluster(setup: Setup, console: Console) -> Setup:
    """With the slots that a cluster has or may grow to, where Ray is one."""
    if not os.environ.get("RAY_ADDRESS"):
        return setup
    from trainer.cluster import machines

    found, config = machines(), setup.config
    slots = Slots.of_cluster(
        config.slots, nodes=found.nodes, cpus=found.cpus, gpus=found.gpus, more_gpus=found.more_gpus,
        each=config.trainer_options.devices,
    )  # fmt: skip
    waits = "; a trial that waits for its node is billed (--slots for fewer)" if found.more_nodes else ""
    console.print(f"{found}: {slots.count} trials at a time on {'GPUs' if slots.gpu else 'CPUs'}{waits}")
    if found.nodes + found.more_nodes > 1 and not config.checkpoints:
        console.print(
            f"checkpoints of trials that may go on are in {setup.directory.checkpoints}: a node that does not see this "
            "folder trains their parts again (--checkpoints takes a shared folder or s3://...)", style="yellow",
        )  # fmt: skip
    return replace(setup, slots=slots)
