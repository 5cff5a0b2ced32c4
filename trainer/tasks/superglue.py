"""SuperGLUE's eight tasks (arXiv 1905.00537; RTE is GLUE's), with its metrics; pairs put as BabyLM puts them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from trainer.evals.score import Score
from trainer.tasks.judged import NO_YES, judged
from trainer.tasks.spans import squad_scores
from trainer.tasks.task import Example, Row, Task


def urls(config: str) -> dict[str, tuple[str, ...]]:
    hub = f"https://huggingface.co/datasets/aps/super_glue/resolve/refs%2Fconvert%2Fparquet/{config}"
    return {"train": (f"{hub}/train/0000.parquet",), "validation": (f"{hub}/validation/0000.parquet",)}


def _wsc(row: Row) -> tuple[str, str]:
    return row["text"].strip(), f'\nDoes "{row["span2_text"]}" refer to "{row["span1_text"]}" in this passage?'


def _wic(row: Row) -> tuple[str, str]:
    return row["sentence1"].strip(), f'\n{row["sentence2"].strip()}\nIs "{row["word"]}" the same in both?'


def _multirc(row: Row) -> tuple[str, str]:
    return row["paragraph"].strip(), f"\nQuestion: {row['question'].strip()} Answer: {row['answer'].strip()}"


def _multirc_group(row: Row) -> str:
    place = row["idx"]
    return f"{place['paragraph']}/{place['question']}"


COPA_ASKS = {"cause": "What was the cause?", "effect": "What happened then?"}


def _copa(row: Row) -> list[Example]:
    """As text: both choices are read, the right one written."""
    choices = row["choice1"].strip(), row["choice2"].strip()
    label = _label(row)
    ask = f"\n{COPA_ASKS[row['question']]}\n{choices[0]}\n{choices[1]}\nAnswer:"
    return [Example(source=row["premise"].strip(), ask=ask, answers=(choices[label],), label=label)]


def _copa_heads(row: Row) -> list[Example]:
    """One a choice; the likelier is chosen."""
    label, source, group = _label(row), row["premise"].strip(), f"{row['premise']}/{row['question']}/{row.get('idx')}"
    after = f"\n{COPA_ASKS[row['question']]}\n"
    return [
        Example(source=source, after=after + row[name].strip(), label=float(i == label), group=group)
        for i, name in enumerate(("choice1", "choice2"))
    ]


def _label(row: Row) -> int:
    label = int(row["label"])
    if label not in (0, 1):
        raise ValueError(f"label {label} is neither 0 nor 1")
    return label


def _same_text(examples: Sequence[Example], said: Sequence[str]) -> list[Score]:
    f1, em, *_ = squad_scores(examples, said)
    return [Score(name="acc", value=em.value, standard_error=em.standard_error, count=em.count)]


def _passage(row: Row) -> str:
    return re.sub(r"\n@highlight\n", "\n", row["passage"]).strip()


def _record(row: Row) -> list[Example]:
    """As text: the name that the placeholder stands for is written."""
    after = f"\n{row['query'].strip()}"
    answers = tuple(dict.fromkeys(row["answers"]))
    return [Example(source=_passage(row), after=after, ask="\nWho or what is @placeholder? Answer:", answers=answers)]


def _record_heads(row: Row) -> list[Example]:
    """One a candidate, put in the placeholder's place."""
    right, source, group = tuple(dict.fromkeys(row["answers"])), _passage(row), str(row["idx"])
    return [
        Example(
            source=source, after=f"\n{row['query'].strip().replace('@placeholder', name)}", group=group,
            answers=(name, *right), label=float(name in right),
        )
        for name in dict.fromkeys(row["entities"])
    ]  # fmt: skip


def _boolq_label(row: Row) -> int:
    return int(row["label"] if "label" in row else row["answer"])


SUPERGLUE = (
    judged(
        "boolq", "yes-no questions on a passage", lambda row: (row["passage"].strip(), f"\n{row['question'].strip()}?"),
        "\nAnswer:", NO_YES, ("acc",), ("passage", "question"), urls("boolq"), label=_boolq_label,
    ),
    judged(
        "cb", "does the speaker commit to it", lambda row: (row["premise"].strip(), f"\n{row['hypothesis'].strip()}"),
        "\nTrue, false or neither? Answer:", ("true", "false", "neither"), ("acc", "macro_f1"),
        ("premise", "hypothesis", "label"), urls("cb"),
    ),
    Task(
        name="copa", line="which is cause or effect", examples=_copa, head_examples=_copa_heads, texts=_same_text,
        columns=("premise", "choice1", "choice2", "question", "label"), kind="label", labels=NO_YES,
        metrics=("choice_acc",), answer_tokens=24, urls=urls("copa"),
    ),
    judged(
        "multirc", "is an answer right", _multirc, "\nIs this answer right? Answer:", NO_YES, ("f1a", "em"),
        ("paragraph", "question", "answer", "idx", "label"), urls("multirc"), group=_multirc_group,
    ),
    Task(
        name="record", line="which name fits", examples=_record, head_examples=_record_heads, texts=squad_scores,
        columns=("passage", "query", "entities", "answers"), kind="label", labels=NO_YES,
        metrics=("choice_f1", "choice_em"), baseline="first words", answer_tokens=16, urls=urls("record"),
    ),
    judged(
        "wic", "is a word meant alike", _wic, "\nAnswer:", NO_YES, ("acc",),
        ("word", "sentence1", "sentence2", "label"), urls("wic"),
    ),
    judged(
        "wsc", "does a pronoun refer to it", _wsc, "\nAnswer:", NO_YES, ("acc",),
        ("text", "span1_text", "span2_text", "label"), urls("wsc"),
    ),
)  # fmt: skip
