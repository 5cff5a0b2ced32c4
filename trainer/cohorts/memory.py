"""Does a run fit a device? Estimates of memory, and the largest micro-batch that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trainer.architecture.counts import parameters
from trainer.cohorts.packing import activation_bytes
from trainer.config import RunConfig
from trainer.devices import free_memory, use_bf16
from trainer.errors import UserError
from trainer.passes import useful

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    import torch

STATE_BYTES = 16  # a parameter: fp32 weight, gradient, and AdamW's two moments
SPARE = 0.9  # of what is free: fragmentation, workspaces, the chunk of logits


def run_bytes(run: RunConfig, sequences: int, device: torch.device, shards: int = 1) -> float:
    """Of training with so many sequences a forward pass, the state split over `shards` devices."""
    state = STATE_BYTES * parameters(run.model).total / shards
    if shards > 1:
        state += gathered_bytes(run, device)
    return state + activation_bytes(run.model, use_bf16(run, device)) * run.model.context * sequences


def gathered_bytes(run: RunConfig, device: torch.device) -> float:
    """What a device holds whole for a while though the model is sharded: embedding and head with their gradients, and
    two blocks (the next is fetched while one computes), one with its gradients."""
    count, item = parameters(run.model), 2 if use_bf16(run, device) else 4
    return 8 * (count.total - count.blocks) + (2 * item + 4) * count.blocks / run.model.depth


def fitted(run: RunConfig, device: torch.device) -> RunConfig:
    """The run with its passes fitted to the device; UserError where not even one sequence fits."""
    return replace(run, micro_batch=micro_batch(run, device))


def micro_batch(run: RunConfig, device: torch.device, workers: int = 1, sharded: bool = False) -> int:
    """Sequences a forward pass: what the run says, else the largest power of two that fits and helps.

    UserError where not even one fits: how much is missing, and what would do.
    """
    shards, free = (workers if sharded else 1), SPARE * free_memory(device)
    share = max(1, run.batch // run.model.context // workers)
    sequences = min(run.micro_batch or useful(run, device), share)
    while run.micro_batch is None and sequences > 1 and run_bytes(run, sequences, device, shards) > free:
        sequences = max(1, sequences // 2)
    need = run_bytes(run, sequences, device, shards)
    if need <= free:
        return sequences
    if run.micro_batch is not None and run_bytes(run, 1, device, shards) <= free:
        fits = run.micro_batch
        while run_bytes(run, fits, device, shards) > free:
            fits //= 2
        raise UserError(
            f"{run.micro_batch} sequences a pass need about {need / 2**30:.1f} GiB of memory and {free / 2**30:.1f} "
            f"are free: use --set micro_batch={fits}, which does not change the losses."
        )
    enough = next((k for k in (2, 4, 8, 16, 32, 64, 128, 256) if run_bytes(run, 1, device, k) <= free), None)
    way = "choose a smaller model"
    if enough and enough > shards:
        way = f"shard it over {enough} devices (--workers {enough} --shard), or choose a smaller model"
    raise UserError(
        f"Training this model needs about {need / 2**30:.1f} GiB a device and {free / 2**30:.1f} are free, "
        f"{(need - free) / 2**30:.1f} too few: {way}."
    )
