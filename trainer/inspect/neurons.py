"""Neurons of the feed-forward parts and the tokens of a corpus that activate them most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trainer.architecture.model import Transformer
from trainer.inspect.attention import hooked, parts


@dataclass(frozen=True)
class Neuron:
    block: int
    part: str
    index: int
    strongest: list[tuple[float, int, int]]
    """(activation, sequence, place), the largest first."""
    mean: float
    deviation: float
    active: float
    """Share of the tokens at which it is above 0."""

    @property
    def selectivity(self) -> float:
        """How many deviations its strongest tokens lie above its mean."""
        strong = sum(value for value, *_ in self.strongest) / len(self.strongest)
        return (strong - self.mean) / self.deviation if self.deviation > 0 else 0.0


class _Tops:
    """The `keep` largest activations of each neuron of one part, and sums for mean and deviation."""

    def __init__(self, keep: int) -> None:
        self.keep, self.values, self.places = keep, torch.empty(0), torch.empty(0, dtype=torch.long)
        self.count, self.sums, self.squares, self.above = 0, 0.0, 0.0, 0.0

    def add(self, activations: Tensor, first: int) -> None:
        """activations [n, F] of the tokens first ... first + n - 1."""
        x = activations.float()
        self.count += len(x)
        self.sums, self.squares = self.sums + x.double().sum(0), self.squares + x.double().square().sum(0)
        self.above = self.above + (x > 0).double().sum(0)
        values, rows = x.topk(min(self.keep, len(x)), dim=0)
        if len(self.values):
            values, places = torch.cat([self.values, values]), torch.cat([self.places, rows + first])
        else:
            places = rows + first
        self.values, best = values.topk(min(self.keep, len(values)), dim=0)
        self.places = places.gather(0, best)


@torch.no_grad()
def neurons(model: Transformer, sequences: np.ndarray, keep: int = 8, batch: int = 8) -> list[Neuron]:
    """All of them, block by block. Activations are what the part's last layer reads: behind the nonlinearity, and the
    gate where there is one. sequences [n, T]."""
    feed_forwards = parts(model, "f")
    tops, first = [_Tops(keep) for _ in feed_forwards], [0]

    def hook(top: _Tops) -> Any:
        def seen(module: nn.Module, given: tuple[Any, ...]) -> None:
            top.add(given[0].flatten(0, 1), first[0])

        return seen

    handles = [
        part.down.register_forward_pre_hook(hook(top))  # type: ignore[union-attr]
        for (*_, part), top in zip(feed_forwards, tops, strict=True)
    ]
    width = sequences.shape[1]
    with hooked(handles):
        for start in range(0, len(sequences), batch):
            some = torch.from_numpy(sequences[start : start + batch]).to(model.embedding.weight.device)
            first[0] = start * width
            model.features(some)
    found = list[Neuron]()
    for (block, part, _), top in zip(feed_forwards, tops, strict=True):
        mean = torch.as_tensor(top.sums) / top.count
        deviation = (torch.as_tensor(top.squares) / top.count - mean.square()).clamp_min(0).sqrt()
        active = (torch.as_tensor(top.above) / top.count).tolist()
        for index, (values, places) in enumerate(zip(top.values.T.tolist(), top.places.T.tolist(), strict=True)):
            strongest = [(value, *divmod(place, width)) for value, place in zip(values, places, strict=True)]
            about = float(mean[index]), float(deviation[index]), active[index]
            found.append(Neuron(block, part, index, strongest, *about))
    return found


def telling(found: Sequence[Neuron], count: int) -> list[Neuron]:
    """Of each part the `count` most selective, in the model's order."""
    chosen = list[Neuron]()
    for place in dict.fromkeys((n.block, n.part) for n in found):
        mine = [n for n in found if (n.block, n.part) == place]
        chosen += sorted(mine, key=lambda n: -n.selectivity)[:count]
    return chosen
