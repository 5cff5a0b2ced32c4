"""Published laws of the best peak lr and batch, in one table: formula, units, range, source.

They were fitted on other data, schedules and batches, and disagree 13-fold at 124M parameters and 2.5B
tokens: use `mixture` as a prior, never one of them as the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A run as the laws see it."""

    n_total: float
    """Parameters, embedding and head included."""
    n_non_embedding: float
    n_layers: int
    width: int
    context: int
    D: float
    """Training tokens."""
    B: float
    """Tokens an optimiser step."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """One row: `value` gives a peak lr (or a batch in tokens), None where the formula has no meaning."""

    name: str
    formula: str
    source: str
    value: Callable[[Scale], float | None]
    n_of: Callable[[Scale], float]
    """The N this law counts, for its range."""
    n_range: tuple[float, float]
    d_range: tuple[float, float] | None = None
    """Tokens; None: the source does not vary them."""
    setup: str = ""
    """What must be alike for the law to hold."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What one law says at one scale."""

    name: str
    log_value: float
    """ln of the peak lr, or of the batch in tokens."""
    in_range: bool
    note: str


def _total(s: Scale) -> float:
    return s.n_total


def _blocks(s: Scale) -> float:
    return s.n_non_embedding


def deepseek_compute(s: Scale) -> float:
    """C = M D, M = 72 layers width^2 + 12 layers width context: non-embedding FLOPs (arXiv 2401.02954)."""
    return s.D * (72 * s.n_layers * s.width**2 + 12 * s.n_layers * s.width * s.context)


def kaplan(s: Scale) -> float | None:
    lr = 3.239e-3 - 1.395e-4 * math.log(s.n_non_embedding)
    return lr if lr > 0 else None


def deepseek(s: Scale) -> float:
    return 0.3118 * deepseek_compute(s) ** -0.1250


def deepseek_batch(s: Scale) -> float:
    return 0.2920 * deepseek_compute(s) ** 0.3271


def step_law(s: Scale) -> float:
    return 1.79 * s.n_non_embedding**-0.713 * s.D**0.307


def step_law_batch(s: Scale) -> float:
    return 0.58 * s.D**0.571


def porian(s: Scale) -> float:
    return 3.7 * s.n_total**-0.36


def porian_batch(s: Scale) -> float:
    return 0.7576 * s.n_total**0.703


GPT3 = (  # parameters, peak lr, tokens a step (arXiv 2005.14165, table 2.1)
    (125e6, 6e-4, 0.5e6), (350e6, 3e-4, 0.5e6), (760e6, 2.5e-4, 0.5e6), (1.3e9, 2e-4, 1e6),
    (2.7e9, 1.6e-4, 1e6), (6.7e9, 1.2e-4, 2e6), (13e9, 1e-4, 2e6), (175e9, 0.6e-4, 3.2e6),
)  # fmt: skip


def _gpt3(n: float, column: int) -> float:
    logs = np.log(np.array(GPT3))
    return float(np.exp(np.interp(math.log(n), logs[:, 0], logs[:, column])))


def gpt3(s: Scale) -> float:
    """Interpolated in the logs; held constant beyond the table."""
    return _gpt3(s.n_total, 1)


def gpt3_batch(s: Scale) -> float:
    return _gpt3(s.n_total, 2)


def minicpm_batch(loss: float) -> float:
    """Tokens a step that need the fewest tokens to reach `loss` nats on C4 (arXiv 2404.06395)."""
    return 1.21e9 / loss**6.24


def critical_batch(loss: float) -> float:
    """Tokens a step at which steps and tokens are traded evenly at `loss` nats (arXiv 2001.08361)."""
    return 2e8 / loss ** (1 / 0.21)


def timescale(n_total: float, D: float) -> float:
    """Power Lines (arXiv 2505.13738): the best B / (lr weight_decay D), as a fraction of the run.

    Fitted in muP on 111M-3.3B parameters.
    """
    return 1.084 * (D / n_total) ** -0.527


def weight_decay(n_total: float, D: float, B: float, lr: float) -> float:
    """The decoupled weight decay (times lr each step) of Power Lines; `lr` of the hidden matrices."""
    return B / (timescale(n_total, D) * lr * D)


LR_LAWS: tuple[Law, ...] = (
    Law(
        name="Kaplan", formula="lr = 3.239e-3 - 1.395e-4 ln N", source="arXiv 2001.08361", value=kaplan,
        n_of=_blocks, n_range=(1e3, 1.5e9), setup="Adam, cosine to 0, batch of 0.5M tokens, context 1024",
    ),
    Law(
        name="DeepSeek", formula="lr = 0.3118 C^-0.1250", source="arXiv 2401.02954", value=deepseek,
        n_of=deepseek_compute, n_range=(1e17, 2e19),
        setup="multi-step schedule, at the best batch for C = non-embedding FLOPs",
    ),
    Law(
        name="Step Law", formula="lr = 1.79 N^-0.713 D^0.307", source="arXiv 2503.04715", value=step_law,
        n_of=_blocks, n_range=(0.2e9, 1.07e9), d_range=(4e9, 100e9),
        setup="cosine to 1e-5, at the best batch; at a fixed batch the D exponent runs from -0.3 to +0.25",
    ),
    Law(
        name="Porian", formula="lr = 3.7 N^-0.36", source="arXiv 2406.19146", value=porian,
        n_of=_total, n_range=(5e6, 902e6), setup="constant lr without decay, about 20 tokens a parameter",
    ),
    Law(
        name="GPT-3 table", formula="interpolated", source="arXiv 2005.14165, table 2.1", value=gpt3,
        n_of=_total, n_range=(125e6, 175e9), d_range=(300e9, 300e9), setup="practice, not a fit",
    ),
)  # fmt: skip

BATCH_LAWS: tuple[Law, ...] = (
    Law(
        name="DeepSeek", formula="B = 0.2920 C^0.3271", source="arXiv 2401.02954", value=deepseek_batch,
        n_of=deepseek_compute, n_range=(1e17, 2e19), setup="at the best lr for C",
    ),
    Law(
        name="Step Law", formula="B = 0.58 D^0.571", source="arXiv 2503.04715", value=step_law_batch,
        n_of=_blocks, n_range=(0.2e9, 1.07e9), d_range=(4e9, 100e9), setup="at the best lr",
    ),
    Law(
        name="Porian", formula="B = 0.7576 N^0.703", source="arXiv 2406.19146", value=porian_batch,
        n_of=_total, n_range=(5e6, 902e6), setup="about 20 tokens a parameter",
    ),
    Law(
        name="GPT-3 table", formula="interpolated", source="arXiv 2005.14165, table 2.1", value=gpt3_batch,
        n_of=_total, n_range=(125e6, 175e9), d_range=(300e9, 300e9),
        setup="practice, not a fit",
    ),
)  # fmt: skip

EXPONENTS: dict[str, tuple[float, float]] = {
    "Step Law, best batch": (-0.713, 0.307),
    "Bjorck (arXiv 2409.19913), batch of 0.5M tokens": (-0.23, -0.32),
    "Porian": (-0.36, 0.0),
    "DeepSeek": (-0.125, -0.125),
}
"""d ln lr / d ln N at fixed D, and d ln lr / d ln D at fixed N (Bjorck's constant is not usable)."""


def out_of_range(law: Law, s: Scale) -> str:
    """One sentence when `law` is used outside what it was fitted on; empty inside."""
    unit = "C" if law.n_range[0] >= 1e15 else "N"
    parts = [(unit, law.n_of(s), law.n_range)]
    if law.d_range:
        parts.append(("D", s.D, law.d_range))
    outside = [
        f"{name}={value:.3g} where {low:.3g} to {high:.3g} was fitted"
        for name, value, (low, high) in parts
        if not low * 0.999 <= value <= high * 1.001
    ]
    return f"{law.name} is used outside its range: {', '.join(outside)}." if outside else ""


def predict_all(scale: Scale) -> list[Prediction]:
    """What every lr law says here, in ln lr; laws without a meaning here are left out."""
    return _predict(LR_LAWS, scale)


def predict_batches(scale: Scale) -> list[Prediction]:
    """What every batch law says here, in ln tokens."""
    return _predict(BATCH_LAWS, scale)


def _predict(laws: tuple[Law, ...], s: Scale) -> list[Prediction]:
    found = []
    for law in laws:
        value, note = law.value(s), out_of_range(law, s)
        if value is not None:
            log_value = math.log(value)
            found.append(Prediction(name=law.name, log_value=log_value, in_range=not note, note=note or law.setup))
    return found


OWN_SD = 0.5  # of one law in ln lr, inside its range: data, schedule and batch differ (Step Law at a
# batch twice off its best is already 0.3 away)


def mixture(predictions: list[Prediction]) -> tuple[float, float]:
    """Mean and sd of ln lr* over the laws: a prior. Out of range counts half.

    The sd is that of the next law drawn from the same population (sample variance, and that of the mean),
    plus each law's own; with one law alone it is 1.
    """
    if not predictions:
        raise ValueError("No published law has a value at this scale: give a range of lrs instead.")
    values = np.array([p.log_value for p in predictions])
    weights = np.array([1.0 if p.in_range else 0.5 for p in predictions])
    weights /= weights.sum()
    mean = float(weights @ values)
    if len(values) == 1:
        return mean, 1.0
    n = 1 / float(weights @ weights)
    spread = float(weights @ (values - mean) ** 2) * n / (n - 1)
    return mean, math.sqrt(spread * (1 + 1 / n) + OWN_SD**2)
