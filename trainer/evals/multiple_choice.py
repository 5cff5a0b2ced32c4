"""Multiple choice by likelihood: the prompts of lm-evaluation-harness, zero-shot, on the public files of each task.

A choice is as good as its summed log-probability (acc), or that over its characters (acc_norm) or bytes (acc_bytes):
the harness's names, and the two differ only where a text is not ASCII.
Each task takes rows as its authors publish them, or as MosaicML's llm-foundry does: query, choices, gold, or for
WinoGrande context_options, continuation, gold.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import UserError
from trainer.evals.files import rows
from trainer.evals.likelihood import Scorer
from trainer.evals.score import Score, mean_score

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question."""

    pairs: tuple[tuple[str, str], ...]
    """(context, continuation) of each choice."""
    choices: tuple[str, ...]
    """Texts whose lengths normalise; as the harness has it, without the space before them."""
    label: int
    """The right one."""


def evaluate(
    scorer: Scorer, path: Path, limit: int | None, *, read: Callable[[Row], Item], normalised: bool = True
) -> list[Score]:
    """Accuracies of a task whose rows `read` understands; only the plain one unless `normalised`."""
    items = [_item(row, where, read) for where, row in rows(path, limit)]
    sums, _ = scorer.log_likelihoods([pair for item in items for pair in item.pairs])
    ends = np.cumsum([len(item.pairs) for item in items])[:-1]
    lengths: dict[str, Callable[[str], int]] = {"acc": lambda choice: 1}
    if normalised:
        lengths |= {"acc_norm": len, "acc_bytes": lambda choice: len(choice.encode())}
    scores = []
    for name, length in lengths.items():
        right = [
            np.argmax(values / [length(c) for c in item.choices]) == item.label
            for item, values in zip(items, np.split(sums, ends), strict=True)
        ]
        scores.append(mean_score(name, np.array(right, float)))
    return scores


def _item(row: Row, where: str, read: Callable[[Row], Item]) -> Item:
    try:
        item = read(row)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        known = ", ".join(row)
        raise UserError(
            f"{where} is not an item of this task ({type(error).__name__}: {error}; its fields are {known}): "
            "give the file that the task's authors publish."
        ) from None
    if len(item.choices) < 2 or not all(item.choices) or not 0 <= item.label < len(item.choices):
        raise UserError(
            f"{where} has {len(item.choices)} choices and the label {item.label}: it needs two or more that are not "
            "empty, and a label that numbers one of them from 0."
        )
    return item


def _ask(context: str, choices: list[str], label: Any) -> Item:
    return Item(pairs=tuple((context, " " + c) for c in choices), choices=tuple(choices), label=int(label))


def _partial(contexts: list[str], continuation: str, label: Any) -> Item:
    """The choices differ in the context, and what follows is scored (partial evaluation, Trinh and Le 2018)."""
    pairs = tuple((c, " " + continuation) for c in contexts)
    return Item(pairs=pairs, choices=tuple(contexts), label=int(label))


def _exam(row: Row) -> tuple[str, list[str], int]:
    """Question, choices and label of the Allen Institute's exams: ARC and OpenBookQA."""
    question, choices = row.get("question", row.get("question_stem")), row.get("choices")
    if isinstance(question, dict):
        question, choices = question["stem"], question["choices"]
    if isinstance(choices, list):
        choices = {key: [c[key] for c in choices] for key in ("text", "label")}
    elif not isinstance(choices, dict):
        raise KeyError("choices")
    return str(question), choices["text"], choices["label"].index(row["answerKey"].strip())


def own(row: Row) -> Item:
    """Anybody's own questions: query, choices, gold, or context_options, continuation, gold."""
    if "context_options" in row:
        return _partial(row["context_options"], row["continuation"], row["gold"])
    return _ask(row["query"], row["choices"], row["gold"])


def hellaswag(row: Row) -> Item:
    """Zellers et al. 2019 (arXiv 1905.07830). A row without ctx_a and ctx_b has its ctx taken as it stands."""
    context = f"{row['ctx_a']} {row['ctx_b'].capitalize()}" if "ctx_a" in row else row["ctx"]
    endings = [_wikihow(e) for e in row["endings"]]
    return _ask(_wikihow(f"{row['activity_label']}: {context}"), endings, row["label"])


def _wikihow(text: str) -> str:
    """Without the marks in brackets that WikiHow's part of HellaSwag holds."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def piqa(row: Row) -> Item:
    """Bisk et al. 2020 (arXiv 1911.11641)."""
    if "query" in row:
        return _ask(row["query"].strip() + "\nAnswer:", row["choices"], row["gold"])
    return _ask(f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], row["label"])


def arc(row: Row) -> Item:
    """Clark et al. 2018 (arXiv 1803.05457), easy and challenge."""
    if "query" in row:
        return _ask(row["query"].strip() + "\nAnswer:", row["choices"], row["gold"])
    question, choices, label = _exam(row)
    return _ask(f"Question: {question}\nAnswer:", choices, label)


def openbookqa(row: Row) -> Item:
    """Mihaylov et al. 2018 (arXiv 1809.02789), without the book."""
    return own(row) if "query" in row else _ask(*_exam(row))


def winogrande(row: Row) -> Item:
    """Sakaguchi et al. 2019 (arXiv 1907.10641)."""
    if "context_options" in row:
        return own(row)
    before, after = row["sentence"].split("_", 1)
    contexts = [before + row["option1"], before + row["option2"]]
    return _partial(contexts, after.strip(), int(row["answer"]) - 1)


def copa(row: Row) -> Item:
    """Roemmele et al. 2011, as in SuperGLUE (arXiv 1905.00537)."""
    if "query" in row:
        context, choices, label = re.sub(r",? (because|therefore)$", r" \1", row["query"]), row["choices"], row["gold"]
    else:
        word = {"cause": "because", "effect": "therefore"}[row["question"]]
        context, label = f"{row['premise'].strip()[:-1]} {word}", row["label"]
        choices = [c[0].lower() + c[1:] for c in (row["choice1"], row["choice2"])]
    # Two spaces before a choice look like the harness's mistake, but they are in the numbers that are published.
    return _ask(context, [" " + c for c in choices], label)


def boolq(row: Row) -> Item:
    """Clark et al. 2019 (arXiv 1905.10044), as in SuperGLUE."""
    if "query" in row:
        return _ask(row["query"].removeprefix("Passage: ") + "\nAnswer:", row["choices"], row["gold"])
    label = row["label"] if "label" in row else row["answer"]
    return _ask(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ["no", "yes"], label)
