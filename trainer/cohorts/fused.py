"""Several runs of one shape trained as one batched program: stacked weights, one vectorised AdamW step.

Members never meet: each has its own lr, schedule, decay, betas, epsilon and clipping, and one whose loss is not finite
leaves the others' numbers as they are.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trainer.architecture.model import Transformer, role
from trainer.architecture.parametrisation import Scale, scale
from trainer.checkpoints.file import load_checkpoint, save_checkpoint, step_of
from trainer.cohorts.population import PopulationModel
from trainer.config import RunConfig, to_dict
from trainer.data import Batches, Prepared
from trainer.devices import use_bf16
from trainer.errors import UserError
from trainer.inputs import model_inputs
from trainer.schedule import multiplier

PASS_TOKENS = {"cpu": 4096, "cuda": 131_072}
"""Tokens of all members together in one forward pass."""


@dataclass
class Slab:
    """Parameters of one kind, side by side: values and both moments [P, n]. One kernel updates them all.

    An embedding table or head is alone in its slab, so that it is contiguous and can be looked up as one table.
    """

    names: list[str]
    shapes: list[torch.Size]
    scale: Scale
    decays: bool
    values: Tensor
    first: Tensor
    second: Tensor

    def views(self, tensor: Tensor) -> dict[str, Tensor]:
        """The parameters [P, ...] inside a tensor [P, n] laid out as this slab."""
        parts = tensor.split([shape.numel() for shape in self.shapes], dim=1)
        return {name: part.view(-1, *shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def kept(self, indices: Tensor) -> Slab:
        tensors = (t.index_select(0, indices) for t in (self.values, self.first, self.second))
        return Slab(self.names, self.shapes, self.scale, self.decays, *tensors)


class Fused:
    """Members in lock step. Their data order is that of the first run's seed; weights are of each run's own."""

    def __init__(self, runs: Sequence[RunConfig], data: Prepared, device: torch.device, compile: bool = False) -> None:
        self.runs, self.data, self.device = list(runs), data, device
        self.step_count = 0
        self.model = PopulationModel(runs[0], device)
        if compile:  # the loss beside it is written by hand
            self.model.features = torch.compile(self.model.features)  # type: ignore[method-assign]
        self.slabs = make_slabs(runs, device)
        self._expose()
        run = runs[0]
        self.train_batches = Batches(data.train, run.model.context, run.seed)
        self.val_batches = Batches(data.val, run.model.context, None)
        self.autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=use_bf16(run, device))

    def _expose(self) -> None:
        """The slabs' parameters as the leaves that the forward pass uses."""
        self.weights = {
            name: view.detach().requires_grad_() for s in self.slabs for name, view in s.views(s.values).items()
        }

    @property
    def micro_batch(self) -> int:
        """Sequences of each member in a forward pass."""
        return pass_sequences(self.runs[0], len(self.runs), self.device)

    # --- one step -----------------------------------------------------------------------------------------------

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One optimiser step of all; returns (mean losses [P], gradient norms [P]) still on the device."""
        run = self.runs[0]
        sequences = run.batch // run.model.context
        batch = self.train_batches.sequences(self.step_count * sequences, sequences)
        total = torch.zeros(len(self.runs), device=self.device)
        for part in np.array_split(batch, -(-sequences // self.micro_batch)):
            losses = self._losses(part) * (len(part) / sequences)
            losses.sum().backward()
            total += losses.detach()
        norms = self._update()
        self.step_count += 1
        return total, norms

    def _losses(self, sequences: np.ndarray) -> Tensor:
        tokens, targets, documents = model_inputs(self.runs[0], self.data, sequences, self.device)
        with self.autocast:
            return self.model.losses(self.weights, tokens, targets, documents)

    @torch.no_grad()
    def _update(self) -> Tensor:
        """Clip each member by its own norm, then AdamW (arXiv 1711.05101) with each member's own settings."""
        gradients = [self._gradient(slab) for slab in self.slabs]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in gradients]).norm(dim=0)
        settings = torch.tensor([self._settings(slab) for slab in self.slabs], dtype=torch.float32)
        if self.device.type == "cuda":
            settings = settings.pin_memory().to(self.device, non_blocking=True)
        for slab, gradient, columns in zip(self.slabs, gradients, settings, strict=True):
            clip, keep, fresh1, fresh2, size, root, eps = columns[:, :, None]
            gradient *= (clip / (norms[:, None] + 1e-6)).clamp(max=1.0)
            slab.first.lerp_(gradient, fresh1)
            slab.second.lerp_(gradient.square_(), fresh2)
            slab.values *= keep
            slab.values.addcdiv_(slab.first * -size, slab.second.sqrt().div_(root).add_(eps))
        return norms

    def _gradient(self, slab: Slab) -> Tensor:
        """[P, n]; the weights' gradients are given up."""
        parts = [self.weights[name].grad for name in slab.names]
        for name in slab.names:
            self.weights[name].grad = None
        flat = [part.flatten(1) for part in parts if part is not None]
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)

    def _settings(self, slab: Slab) -> list[list[float]]:
        """What AdamW needs of each member at this step, by quantity: [7, P]."""
        columns = []
        for run in self.runs:
            lr = (run.lr or 0.0) * multiplier(run, self.step_count) * slab.scale.lr
            decay = run.weight_decay * slab.scale.weight_decay if slab.decays else 0.0
            (beta1, beta2), t = run.betas, self.step_count + 1
            size, root = lr / (1 - beta1**t), math.sqrt(1 - beta2**t)
            columns.append(
                (run.clip or math.inf, 1 - lr * decay, 1 - beta1, 1 - beta2, size, root, run.eps * slab.scale.eps)
            )
        return [list(quantity) for quantity in zip(*columns, strict=True)]

    @torch.no_grad()
    def evaluate(self) -> list[float]:
        """Every member's mean loss on the held-out tokens, nats a token."""
        sequences = self.runs[0].data.val_tokens // self.runs[0].model.context
        total = torch.zeros(len(self.runs), device=self.device)
        for first in range(0, sequences, self.micro_batch):
            part = self.val_batches.sequences(first, min(self.micro_batch, sequences - first))
            total += self._losses(part) * (len(part) / sequences)
        return total.tolist()

    # --- members ------------------------------------------------------------------------------------------------

    def keep(self, indices: Sequence[int]) -> None:
        """Go on with these members alone: a slice of the tensors."""
        self.runs = [self.runs[i] for i in indices]
        chosen = torch.tensor(indices, device=self.device)
        self.slabs = [slab.kept(chosen) for slab in self.slabs]
        self._expose()

    def model_of(self, index: int) -> Transformer:
        """The member as a model of its own."""
        model = Transformer(self.runs[index])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(self.weights[name][index])
        return model.to(self.device)

    def save(self, index: int, path: Path) -> None:
        """The member as a checkpoint of `trainer.loop.Training`."""
        tensors = {f"model.{name}": weight[index] for name, weight in self.weights.items()}
        if self.step_count:
            for slab in self.slabs:
                for key, held in (("exp_avg", slab.first), ("exp_avg_sq", slab.second)):
                    tensors |= {f"optimizer.{key}.{name}": view[index] for name, view in slab.views(held).items()}
            tensors |= {f"optimizer.step.{name}": torch.tensor(float(self.step_count)) for name in self.weights}
        save_checkpoint(path, tensors, {"step": self.step_count, "run": to_dict(self.runs[index])})

    def load(self, paths: Sequence[Path]) -> None:
        """Every member from a checkpoint, all of the same step; schedules and lrs are the members' own."""
        steps = set()
        for index, path in enumerate(paths):
            tensors, state = load_checkpoint(path)
            steps.add(step_of(state, path))
            for slab in self.slabs:
                for key, held in (("model.", slab.values), ("optimizer.exp_avg.", slab.first),
                                  ("optimizer.exp_avg_sq.", slab.second)):  # fmt: skip
                    for name, view in slab.views(held).items():
                        if key == "model." or key + name in tensors:
                            put(view[index], tensors.get(key + name), path, name)
        if len(steps) > 1:
            raise UserError(f"Members of a cohort must be at the same step, and these are at {sorted(steps)}.")
        self.step_count = steps.pop()


def pass_sequences(run: RunConfig, members: int, device: torch.device) -> int:
    """Sequences of each member in one forward pass."""
    tokens = PASS_TOKENS[device.type] // (members * run.model.context)
    return min(run.micro_batch or max(1, tokens), run.batch // run.model.context)


def put(place: Tensor, saved: Tensor | None, path: Path, name: str) -> None:
    """Copy a checkpoint's tensor; a UserError when it is of another model."""
    if saved is None or saved.shape != place.shape:
        shape = "missing" if saved is None else f"of shape {tuple(saved.shape)}"
        raise UserError(f"{path} is of another model: {name} is {shape}, not {tuple(place.shape)}.")
    place.copy_(saved)


def make_slabs(runs: Sequence[RunConfig], device: torch.device) -> list[Slab]:
    """Stacked initial weights, each member's from its own seed."""
    members = [dict(Transformer(run).named_parameters()) for run in runs]
    groups: dict[tuple[Scale, bool, str], list[str]] = defaultdict(list)
    for name, parameter in members[0].items():
        alone = name if name in ("embedding.weight", "head.weight") else ""
        groups[scale(runs[0], role(name, parameter)), parameter.dim() >= 2, alone].append(name)
    slabs = []
    for (scaling, decays, _), names in groups.items():
        rows = [torch.cat([member[name].detach().flatten() for name in names]) for member in members]
        values = torch.stack(rows).to(device)
        shapes = [members[0][name].shape for name in names]
        slabs.append(Slab(names, shapes, scaling, decays, values, torch.zeros_like(values), torch.zeros_like(values)))
    return slabs
