"""How many tokens a model of N parameters is best given for its compute: published laws, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Optimal:
    """`tokens` of N, the parameters with embeddings; `source` for people."""

    source: str
    tokens: Callable[[float], float]


def _refitted(n: float) -> float:
    """L = E + A / N^a + B / D^b is least at 6 N D = C where a A / N^a = b B / D^b."""
    a, b, big_a, big_b = 0.3478, 0.3658, 482.01, 2085.43
    return (b * big_b * n**a / (a * big_a)) ** (1 / b)


LAW = Optimal("Chinchilla's third approach as refitted by Besiroglu et al. (arXiv 2404.10102)", _refitted)
"""What `--tokens optimal` means."""
