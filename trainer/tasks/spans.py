"""Exact match and F1 of short answers, by SQuAD's rules (arXiv 1606.05250, 1806.03822)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from trainer.evals.score import Score, mean_score
from trainer.tasks.task import Example

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal(text: str) -> str:
    """Lower case, without punctuation and articles, words one space apart."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(said: str, right: str) -> float:
    return float(normal(said) == normal(right))


def token_f1(said: str, right: str) -> float:
    """Of the words that both have; where either has none, 1 if both have none."""
    ours, theirs = normal(said).split(), normal(right).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def best(measure: Callable[[str, str], float], said: str, answers: Sequence[str]) -> float:
    """Over all right answers; one that normalises to nothing counts only where there is no other."""
    given = [answer for answer in answers if normal(answer)] or [""]
    return max(measure(said, answer) for answer in given)


def squad_scores(examples: Sequence[Example], said: Sequence[str]) -> list[Score]:
    """f1 and em, and both of the rows with and without an answer where there are some of each."""
    f1 = np.array([best(token_f1, text, e.answers) for e, text in zip(examples, said, strict=True)])
    em = np.array([best(exact_match, text, e.answers) for e, text in zip(examples, said, strict=True)])
    found = [mean_score("f1", f1), mean_score("em", em)]
    has = np.array([any(normal(a) for a in e.answers) for e in examples])
    if has.any() and not has.all():
        for name, rows in (("answerable", has), ("unanswerable", ~has)):
            found += [mean_score(f"f1/{name}", f1[rows]), mean_score(f"em/{name}", em[rows])]
    return found
