"""What a form of a model can do: logits of whole texts, and token by token."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np
import torch

from trainer.architecture.attention import KVCache
from trainer.architecture.model import Transformer
from trainer.errors import UserError


class Form(Protocol):
    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """tokens [B, T] -> [B, T, V], float32."""
        ...

    def decode(self, prompt: np.ndarray, count: int) -> np.ndarray:
        """Greedily, with a cache: the `count` tokens after the prompt [1, T]."""
        ...


class Torch:
    """The model itself."""

    def __init__(self, model: Transformer) -> None:
        self.model = model.eval()

    @torch.no_grad()
    def logits(self, tokens: np.ndarray) -> np.ndarray:
        return self.model(torch.from_numpy(tokens)).float().numpy()

    @torch.no_grad()
    def decode(self, prompt: np.ndarray, count: int) -> np.ndarray:
        model = self.model
        cache, fresh, found = KVCache(model.config, 1, torch.device("cpu")), torch.from_numpy(prompt), list[int]()
        for _ in range(count):
            token = model.logits(model.features(fresh, cache=cache)[:, -1]).argmax(-1)
            found.append(int(token))
            fresh = token[None]
        return np.array(found)


def package(name: str) -> Any:
    """One of the extra `edge`; UserError says what to install."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"This form needs the package {name}: pip install 'hpt[edge]'.") from None
