"""LAMBADA: the last word of a passage (Paperno et al. 2016, arXiv 1606.06031; the file is OpenAI's variant)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from trainer.errors import UserError
from trainer.evals.files import rows
from trainer.evals.likelihood import Scorer
from trainer.evals.score import Score, mean_score


def evaluate(scorer: Scorer, path: Path, limit: int | None) -> list[Score]:
    """Perplexity of the last word (over words, not tokens), and how often greedy decoding gives it."""
    pairs = []
    for where, row in rows(path, limit):
        context, space, word = str(row.get("text", "")).rpartition(" ")
        if not space or not word:
            raise UserError(f"{where} has no `text` of several words: give OpenAI's lambada_test.jsonl.")
        pairs.append((context, space + word))
    sums, greedy = scorer.log_likelihoods(pairs)
    loss = mean_score("loss", -sums)
    perplexity = math.exp(min(loss.value, 700.0))  # a broken model's would be infinite, and JSON has none
    # To first order the error of exp(x) is exp(x) times that of x.
    error = None if loss.standard_error is None else perplexity * loss.standard_error
    return [
        Score(name="perplexity", value=perplexity, standard_error=error, count=len(pairs)),
        mean_score("acc", np.asarray(greedy, float)),
    ]
