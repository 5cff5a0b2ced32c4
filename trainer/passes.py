"""How many sequences a forward pass has: what helps, and less where memory ran out. It does not change the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.config import ModelConfig, RunConfig

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    import torch

USEFUL_TOKENS = {"cpu": 4096, "cuda": 65536}
"""Beyond which a pass gets no faster; on a CPU more falls out of cache and is slower."""

_LEARNT: dict[tuple[ModelConfig, str], int] = {}


def useful(run: RunConfig, device: torch.device) -> int:
    return max(1, USEFUL_TOKENS[device.type] // run.model.context)


def sequences(run: RunConfig, device: torch.device) -> int:
    """What the run says (trainer.cohorts.memory fits it to the device) or what helps; no more than memory held."""
    wanted = run.micro_batch or useful(run, device)
    return min(wanted, _LEARNT.get((run.model, str(device)), wanted))


def learn(run: RunConfig, device: torch.device, held: int) -> None:
    """Memory ran out with more than `held` sequences a pass: later runs of this shape in this process begin there."""
    _LEARNT[run.model, str(device)] = max(1, held)
