"""BLiMP: minimal pairs of an acceptable and an unacceptable sentence (Warstadt et al. 2020, arXiv 1912.00582), and the
BabyLM challenge's supplement to it, whose files name their phenomenon (arXiv 2301.11796).

A masked language model is asked by pseudo-log-likelihood (trainer.evals.likelihood)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trainer.errors import UserError
from trainer.evals.files import rows
from trainer.evals.likelihood import Scorer
from trainer.evals.score import Score, mean_score


def evaluate(scorer: Scorer, path: Path, limit: int | None) -> list[Score]:
    """How often the acceptable sentence is the likelier one: of all pairs (acc), of each phenomenon, and the mean over
    phenomena (acc_macro), which counts each alike however many pairs it has."""
    pairs, phenomena = [], []
    for where, row in rows(path, limit):
        if not row.get("sentence_good") or not row.get("sentence_bad"):
            raise UserError(f"{where} has no sentence_good and sentence_bad: give the files that BLiMP publishes.")
        # The harness puts its space between context and continuation here too, though the context is empty.
        pairs += [("", f" {row['sentence_good']}"), ("", f" {row['sentence_bad']}")]
        phenomena.append(row.get("linguistics_term") or row.get("UID") or _file(where))
    sums, _ = scorer.log_likelihoods(pairs)
    # A tie is right, as in the harness.
    right, kind = (sums[0::2] >= sums[1::2]).astype(float), np.array(phenomena)
    parts = [mean_score(f"acc/{name}", right[kind == name]) for name in sorted(set(phenomena))]
    if len(parts) < 2:
        return [mean_score("acc", right)]
    errors = [part.standard_error or 0.0 for part in parts]
    macro = Score(
        name="acc_macro",
        value=float(np.mean([part.value for part in parts])),
        standard_error=float(np.linalg.norm(errors)) / len(parts),
        count=len(parts),
    )
    return [mean_score("acc", right), macro, *parts]


def _file(where: str) -> str:
    """The phenomenon by the name of a row's file."""
    return Path(where.split(", line ")[0].rpartition(":")[2]).name.split(".")[0] or "other"
