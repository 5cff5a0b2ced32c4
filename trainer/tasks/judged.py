"""Tasks of labels and values, whose rows become a text and a label; what GLUE, SuperGLUE and users' files share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trainer.evals.score import Score
from trainer.tasks import labels
from trainer.tasks.task import Example, Row, Task, word

NO_YES = ("no", "yes")
Text = Callable[[Row], tuple[str, str]]
"""A row's (source, after)."""


def judged(
    name: str,
    line: str,
    text: Text,
    ask: str,
    words: tuple[str, ...],
    metrics: tuple[str, ...],
    columns: tuple[str, ...],
    urls: Mapping[str, tuple[str, ...]],
    label: Callable[[Row], int] = lambda row: int(row["label"]),
    group: Callable[[Row], str] = lambda row: "",
) -> Task:
    """A task of one label a row."""

    def examples(row: Row) -> list[Example]:
        (source, after), found = text(row), label(row)
        answers = word(words, found)
        return [Example(source=source, after=after, ask=ask, answers=answers, label=found, group=group(row))]

    return Task(
        name=name, line=line, examples=examples, texts=by_label(words, metrics), columns=columns, kind="label",
        labels=words, metrics=metrics, urls=urls,
    )  # fmt: skip


def by_label(words: Sequence[str], metrics: Sequence[str]) -> Callable[[Sequence[Example], Sequence[str]], list[Score]]:
    """Texts scored as the label whose word they begin with; -1, which is always wrong, for any other."""
    order = sorted(range(len(words)), key=lambda i: -len(words[i]))

    def said_label(text: str) -> int:
        return next((i for i in order if text.strip().lower().startswith(words[i].lower())), -1)

    def scores(examples: Sequence[Example], said: Sequence[str]) -> list[Score]:
        return labels.scores(metrics, examples, np.array([said_label(text) for text in said]))

    return scores


def by_value(metrics: Sequence[str]) -> Callable[[Sequence[Example], Sequence[str]], list[Score]]:
    """Texts scored as the number they begin with; 0 for any other."""

    def scores(examples: Sequence[Example], said: Sequence[str]) -> list[Score]:
        numbers = [re.match(r"-?\d+(?:\.\d+)?", text.strip()) for text in said]
        return labels.scores(metrics, examples, np.array([float(n[0]) if n else 0.0 for n in numbers]))

    return scores
