"""Whether a form of a model computes what the model does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.data.masking import NOTHING
from trainer.edge.form import Form


@dataclass(frozen=True, kw_only=True)
class Compared:
    difference: float
    """Largest of any logit."""
    scale: float
    """Standard deviation of the model's logits: what the difference is to be held against."""
    agreement: float
    """Share of the places at which both hold the same token for the likeliest."""
    loss: float
    """Of the form, nats a token; nan without targets."""
    loss_before: float
    """Of the model."""


def compare(model: Form, form: Form, tokens: np.ndarray, targets: np.ndarray | None = None) -> Compared:
    """tokens and targets [n, T], a sequence at a time."""
    difference, agreed, losses, spread, count = 0.0, 0, [0.0, 0.0], list[float](), 0
    for i in range(len(tokens)):
        wanted, found = model.logits(tokens[i : i + 1])[0], form.logits(tokens[i : i + 1])[0]
        difference = max(difference, float(np.abs(wanted - found).max()))
        agreed += int((wanted.argmax(-1) == found.argmax(-1)).sum())
        spread.append(float(wanted.std()))
        if targets is not None:
            losses = [losses[k] + cross_entropy(logits, targets[i]) for k, logits in enumerate((found, wanted))]
            count += int((targets[i] != NOTHING).sum())
    loss, before = (total / count if count else float("nan") for total in losses)
    return Compared(
        difference=difference, scale=float(np.mean(spread)), agreement=agreed / tokens.size, loss=loss,
        loss_before=before,
    )  # fmt: skip


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Summed over the targets that are asked for, nats: logits [T, V], targets [T]."""
    asked = targets != NOTHING
    x = logits[asked].astype(np.float64)
    x -= x.max(-1, keepdims=True)
    chosen = np.take_along_axis(x, targets[asked][:, None], 1)[:, 0]
    return float((np.log(np.exp(x).sum(-1)) - chosen).sum())
