"""What a kind of model of `transformers` is, and how its tensors are renamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.config import ModelConfig
from trainer.families import settings

Config = dict[str, Any]


@dataclass(frozen=True)
class Name:
    """A tensor by our name and theirs; queries, keys and values lie apart in most of theirs."""

    ours: str
    theirs: tuple[str, ...]
    turned: bool = False
    """Theirs is the transpose: GPT-2's Conv1D."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    architecture: str
    """Class of transformers."""
    family: str
    """Row of trainer.families that it is."""
    free: tuple[str, ...]
    """Settings of that row in which its models may differ."""
    config: Callable[[ModelConfig], Config]
    model: Callable[[Config, Mapping[str, Tensor]], ModelConfig]
    names: Callable[[ModelConfig], Iterator[Name]]
    only: Mapping[str, tuple[Any, ...]]
    """What a folder may say of the model without being another model than ours; a key that is absent is right."""
    prefix: str = ""
    """That some of its folders leave out."""
    prepare: Callable[[Config, dict[str, Tensor]], dict[str, Tensor]] = lambda config, tensors: tensors
    """What is done to their tensors before they are renamed."""
    finish: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
    """What is done to ours once they are renamed."""
    odd: Callable[[ModelConfig], str] = lambda model: ""
    """Why it cannot be this model though its settings are those of the family; empty: it can."""
    writes: bool = True

    def differs(self, model: ModelConfig) -> list[str]:
        """Settings that this kind does not have."""
        row = {key.removeprefix("model."): value for key, value in settings(self.family).items() if "model." in key}
        row |= {"kv_heads": (None, model.heads), "qk_dim": (None, model.head_dim), "v_dim": (None, model.head_dim)}
        both = {"qkv_bias": (row["qkv_bias"], model.bias if row["qkv_bias"] is None else row["qkv_bias"])}
        found = []
        for name, value in (row | both).items():
            allowed = value if isinstance(value, tuple) and name != "windows" else (value,)
            if name not in self.free and getattr(model, name) not in allowed:
                found.append(f"{name}={getattr(model, name)}")
        return found

    def renamed(self, model: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ours as theirs. A model without a bias is one whose bias is 0."""
        out = dict[str, Tensor]()
        for name in self.names(model):
            tensor = tensors.get(name.ours)
            if tensor is None:
                tensor = torch.zeros(tensors[f"{name.ours.removesuffix('bias')}weight"].shape[0])
            parts = [tensor] if len(name.theirs) == 1 else list(tensor.split(qkv_sizes(model)))
            for theirs, part in zip(name.theirs, parts, strict=True):
                out[theirs] = part.T if name.turned else part
        return self.finish(out)

    def ours(self, config: Config, tensors: Mapping[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
        """Theirs as ours; KeyError for a tensor that is missing."""
        held = {n if n.startswith((self.prefix, *OUTSIDE)) else self.prefix + n: t for n, t in tensors.items()}
        model = self.model(config, held)
        held = self.prepare(config, held)
        out = dict[str, Tensor]()
        for name in self.names(model):
            tensor = torch.cat([held[theirs] for theirs in name.theirs])
            out[name.ours] = tensor.T if name.turned else tensor
        return model, out


OUTSIDE = ("lm_head.", "cls.")
"""What lies beside the prefix."""


def qkv_sizes(model: ModelConfig) -> list[int]:
    return [model.heads * model.query_dim, model.n_kv_heads * model.query_dim, model.n_kv_heads * model.value_dim]


def both(ours: str, *theirs: str, turned: bool = False) -> Iterator[Name]:
    """Weight (turned) and bias of a layer."""
    yield Name(f"{ours}.weight", tuple(f"{t}.weight" for t in theirs), turned)
    yield Name(f"{ours}.bias", tuple(f"{t}.bias" for t in theirs))
