"""Tasks asked of a form of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.edge.form import Form
from trainer.evals.likelihood import Scorer


@dataclass(frozen=True, kw_only=True)
class FormScorer(Scorer):
    """As the model's own scorer, whose `model` says how texts are cut; the form computes."""

    form: Form

    def probabilities(
        self, tokens: np.ndarray, asked: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        logits = self.form.logits(tokens)[asked].astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        values = logits[np.arange(len(targets)), targets] - np.log(np.exp(logits).sum(1))
        return values, logits.argmax(1) == targets
