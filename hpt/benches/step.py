"""One optimiser step: ours against the plain fp32 eager step with whole logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hpt.benches.common import Options, Row, in_time, seconds, shapes
from trainer.architecture.counts import flops_per_token, parameters
from trainer.architecture.model import Transformer
from trainer.config import RunConfig
from trainer.data import Batches, Prepared
from trainer.data.synthetic import random_data
from trainer.devices import peak_flops
from trainer.loop import Training


def measure(options: Options) -> list[Row]:
    rows = []
    for name, run in in_time(shapes(options), options):
        with random_data(run.model.vocabulary, 4 * run.batch + 1) as data:
            rows += [{"shape": name, **row} for row in _shape(run, data, options)]
    return rows


def _shape(run: RunConfig, data: Prepared, options: Options) -> list[Row]:
    """Each way's memory is measured while it is alone; then the ways take turns."""
    device, memory = options.device, {}
    ways: dict[str, Callable[[], Any]] = {}
    for name, make in makers(options).items():
        before = _memory(device, reset=True)
        ways[name] = make(run, data, device)
        ways[name]()
        memory[name] = _memory(device) - before
    taken = seconds(ways, options.repeats, device)
    top = peak_flops(run, device)
    return [
        {
            "parameters": parameters(run.model).total,
            "way": name,
            "ms": 1e3 * time,
            "tokens_per_second": run.batch / time,
            "mfu": flops_per_token(run.model, run.predicted) * run.batch / time / top if top else None,
            "peak_mib": memory[name] / 2**20 if device.type == "cuda" else None,
            "speedup": taken["plain"] / time,
        }
        for name, time in taken.items()
    ]


def makers(options: Options) -> dict[str, Callable[[RunConfig, Prepared, torch.device], Callable[[], Any]]]:
    found = {"plain": plain_step, "ours fp32": fp32_step, "ours": our_step}
    return {**found, "ours compiled": compiled_step} if options.compiled else found


def our_step(run: RunConfig, data: Prepared, device: torch.device) -> Callable[[], Any]:
    return Training(run, data, device).train_step


def fp32_step(run: RunConfig, data: Prepared, device: torch.device) -> Callable[[], Any]:
    return Training(replace(run, precision="fp32"), data, device).train_step


def compiled_step(run: RunConfig, data: Prepared, device: torch.device) -> Callable[[], Any]:
    training = Training(run, data, device)
    training.model.features = torch.compile(training.model.features)
    return training.train_step


def plain_step(run: RunConfig, data: Prepared, device: torch.device) -> Callable[[], torch.Tensor]:
    """What a careful user writes first: fp32, eager, logits of a whole micro-batch, PyTorch's AdamW and clipping.

    As much in a pass as ours on CUDA; the whole batch on a CPU.
    """
    model = Transformer(run).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.lr or 0.0, betas=run.betas, weight_decay=run.weight_decay)
    batches = Batches(data.train, run.model.context, run.seed)
    count, step = run.batch // run.model.context, 0
    passes = -(-run.batch // 65536) if device.type == "cuda" else 1

    def train_step() -> torch.Tensor:
        nonlocal step
        total = torch.zeros((), device=device)
        for part in np.array_split(batches.sequences(step * count, count), passes):
            tokens = torch.from_numpy(part).to(device)
            logits = F.linear(model.features(tokens[:, :-1]), model.head_weight)
            loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) * (len(part) / count)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run.clip)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        return total

    return train_step


def _memory(device: torch.device, reset: bool = False) -> int:
    """Bytes: the most that was allocated since the last reset; when resetting, what is allocated now."""
    if device.type != "cuda":
        return 0
    if reset:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return torch.cuda.max_memory_allocated(device)
