"""SQuAD v1.1 (arXiv 1606.05250) and v2 (1806.03822), where some questions have no answer in the text."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from trainer.errors import UserError
from trainer.evals.score import Score
from trainer.tasks.overlap import rouge
from trainer.tasks.spans import squad_scores
from trainer.tasks.task import Example, Row, Task

SITE = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
NONE = "unanswerable"
"""What a model writes where the text has no answer."""


def _answers(row: Row) -> list[tuple[str, int]]:
    """(text, where it begins), from a list of both or, as the hub has it, two lists."""
    given = row["answers"]
    if isinstance(given, dict):
        return list(zip(given["text"], given["answer_start"], strict=True))
    return [(answer["text"], int(answer.get("answer_start", -1))) for answer in given]


def _examples(row: Row) -> list[Example]:
    context, answers = row["context"], _answers(row)
    if not answers:
        return [_example(row, (NONE,), None)]
    text, start = answers[0]
    if context[start : start + len(text)] != text or start < 0:
        start = context.find(text)
    if start < 0:
        raise UserError(f"the answer {text[:60]!r} does not stand in the context: mend the row or leave it out.")
    texts = tuple(dict.fromkeys(answer for answer, _ in answers))
    return [_example(row, texts, (start, start + len(text)))]


def _example(row: Row, answers: tuple[str, ...], keep: tuple[int, int] | None) -> Example:
    question = f"\nQuestion: {row['question'].strip()}"
    return Example(source=row["context"], after=question, ask="\nAnswer:", answers=answers, keep=keep)


def _of_v1(row: Row) -> list[Example]:
    if not _answers(row):
        raise UserError("the question has no answer: squad is v1.1, give rows of v2 to squad_v2.")
    return _examples(row)


def _scores(examples: Sequence[Example], said: Sequence[str]) -> list[Score]:
    """As the official v2 script: the right text is empty where there is no answer."""
    plain = [Example(source="", answers=("",) if e.answers == (NONE,) else e.answers) for e in examples]
    found = squad_scores(plain, ["" if text.strip().lower() == NONE else text for text in said])
    if importlib.util.find_spec("rouge_score"):  # as one course scores it; the rest needs no package
        found += rouge(examples, said, ("rougeL",))
    return found


SQUAD = Task(
    name="squad",
    line="questions whose answer stands in a text (v1.1), by F1 and exact match",
    examples=_of_v1,
    texts=_scores,
    columns=("context", "question", "answers"),
    kind="span",
    baseline="first words",
    answer_tokens=32,
    urls={"train": (f"{SITE}/train-v1.1.json",), "validation": (f"{SITE}/dev-v1.1.json",)},
)
SQUAD_V2 = Task(
    name="squad_v2",
    line="the same, some questions without an answer (v2)",
    examples=_examples,
    texts=_scores,
    columns=("context", "question", "answers"),
    kind="span",
    may_be_none=True,
    baseline="first words",
    answer_tokens=32,
    urls={"train": (f"{SITE}/train-v2.0.json",), "validation": (f"{SITE}/dev-v2.0.json",)},
)
