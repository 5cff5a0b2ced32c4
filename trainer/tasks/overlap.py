"""ROUGE and BLEU by the packages that define them, rouge-score and sacrebleu: the extra `finetune`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.evals.score import Score, mean_score
from trainer.tasks.task import Example

SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
RESAMPLES = 100


def package(name: str, extra: str, what: str) -> Any:
    """An optional package; UserError says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{what} needs {name.replace('_', '-')}: pip install 'hpt[{extra}]'.") from None


def by_sentence(text: str) -> str:
    """A sentence a line, as rougeLsum wants its texts; one that has lines already stays."""
    text = text.strip()
    return text if "\n" in text else "\n".join(SENTENCE_END.split(text))


def rouge(examples: Sequence[Example], said: Sequence[str], names: Sequence[str]) -> list[Score]:
    """F1 x 100, with Porter's stemmer; the best over all right answers."""
    module = package("rouge_score.rouge_scorer", "finetune", "ROUGE")
    scorer = module.RougeScorer(list(names), use_stemmer=True)
    rows = []
    for example, text in zip(examples, said, strict=True):
        each = [scorer.score(by_sentence(answer), by_sentence(text)) for answer in example.answers]
        rows.append([max(found[name].fmeasure for found in each) for name in names])
    values = 100 * np.array(rows)
    return [mean_score(name, values[:, i]) for i, name in enumerate(names)]


def bleu(examples: Sequence[Example], said: Sequence[str]) -> Score:
    """Of the corpus, one reference, in sacrebleu's default setting; newlines are spaces."""
    module = package("sacrebleu", "finetune", "BLEU")
    hypotheses = [" ".join(text.split()) for text in said]
    references = [[" ".join(e.answers[0].split()) for e in examples]]
    metric, each = module.BLEU(), module.BLEU(effective_order=True)  # the latter for its counts: it warns of nothing
    value = metric.corpus_score(hypotheses, references).score
    error = None
    if len(said) > 1:
        found = [each.sentence_score(text, [right]) for text, right in zip(hypotheses, references[0], strict=True)]
        counts = np.array([[*f.counts, *f.totals, f.sys_len, f.ref_len] for f in found])
        drawn = np.random.default_rng(0).integers(0, len(said), (RESAMPLES, len(said)))
        again = [_of_counts(module.BLEU, counts[rows].sum(0)) for rows in drawn]
        error = float(np.std(again))
    return Score(name="bleu", value=value, standard_error=error, count=len(said))


def _of_counts(kind: Any, counts: np.ndarray) -> float:
    """BLEU of summed counts: right n-grams of each order, all of them, lengths of hypotheses and references."""
    orders = (len(counts) - 2) // 2
    numbers = [int(n) for n in counts]
    return kind.compute_bleu(numbers[:orders], numbers[orders:-2], numbers[-2], numbers[-1], smooth_method="exp").score


def summary_scores(examples: Sequence[Example], said: Sequence[str]) -> list[Score]:
    return [*rouge(examples, said, ("rouge1", "rouge2", "rougeL", "rougeLsum")), bleu(examples, said)]


def lead(text: str, sentences: int) -> str:
    """The first sentences of a text, a line each."""
    return "\n".join(SENTENCE_END.split(" ".join(text.split()), maxsplit=sentences)[:sentences])
