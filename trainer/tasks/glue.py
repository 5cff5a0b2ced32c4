"""GLUE's nine tasks (arXiv 1804.07461), with its metrics."""

from __future__ import annotations

from trainer.tasks.judged import NO_YES, Text, by_value, judged
from trainer.tasks.task import Example, Row, Task


def urls(config: str, validation: str = "validation") -> dict[str, tuple[str, ...]]:
    hub = f"https://huggingface.co/datasets/nyu-mll/glue/resolve/main/{config}"
    return {
        "train": (f"{hub}/train-00000-of-00001.parquet",),
        "validation": (f"{hub}/{validation}-00000-of-00001.parquet",),
    }


def _sentence(row: Row) -> tuple[str, str]:
    return (row["sentence"] if "sentence" in row else row["text_a"]).strip(), ""


def _pair(first: str, second: str) -> Text:
    return lambda row: (row[first].strip(), f"\n{row[second].strip()}")


FOLLOWS = "\nDoes the second follow from the first?"
SAME = "\nDo both mean the same?"
THREE = ("yes", "maybe", "no")


def _stsb(row: Row) -> list[Example]:
    value = float(row["label"])
    if not 0 <= value <= 5:
        raise ValueError(f"a similarity of {value:g} is not between 0 and 5")
    source, after = _pair("sentence1", "sentence2")(row)
    ask = "\nHow alike are both, from 0 to 5? Answer:"
    return [Example(source=source, after=after, ask=ask, answers=(f"{round(value * 5) / 5:.1f}",), label=value)]


def _mnli(name: str, validation: str) -> Task:
    return judged(
        name, f"does a sentence follow, {validation.removeprefix('validation_')} genres",
        _pair("premise", "hypothesis"), f"{FOLLOWS} Answer:", THREE, ("acc",), ("premise", "hypothesis", "label"),
        urls("mnli", validation),
    )  # fmt: skip


def _of_pairs(
    name: str, line: str, first: str, second: str, ask: str, words: tuple[str, ...], metrics: tuple[str, ...]
) -> Task:
    columns = (first, second, "label")
    return judged(name, line, _pair(first, second), f"{ask} Answer:", words, metrics, columns, urls(name))


YES_NO = ("yes", "no")
SST2 = judged(
    "sst2", "is a review good", _sentence, "\nIs this good or bad? Answer:", ("bad", "good"), ("acc",), ("label",),
    urls("sst2"),
)  # fmt: skip
COLA = judged(
    "cola", "is a sentence English", _sentence, "\nIs this good English? Answer:", NO_YES, ("mcc", "acc"),
    ("sentence", "label"), urls("cola"),
)  # fmt: skip
STSB = Task(
    name="stsb", line="how alike two sentences are", examples=_stsb, texts=by_value(("pearson", "spearman")),
    columns=("sentence1", "sentence2", "label"), kind="value", metrics=("pearson", "spearman"), urls=urls("stsb"),
)  # fmt: skip
GLUE = (
    COLA,
    SST2,
    _of_pairs("mrpc", "do two sentences mean the same", "sentence1", "sentence2", SAME, NO_YES, ("f1", "acc")),
    _of_pairs("qqp", "do two questions ask the same", "question1", "question2", SAME, NO_YES, ("f1", "acc")),
    STSB,
    _mnli("mnli", "validation_matched"),
    _mnli("mnli_mm", "validation_mismatched"),
    _of_pairs(
        "qnli", "does a sentence answer a question", "question", "sentence",
        "\nDoes the sentence answer the question?", YES_NO, ("acc",),
    ),
    _of_pairs("rte", "does a sentence follow", "sentence1", "sentence2", FOLLOWS, YES_NO, ("acc",)),
    _of_pairs("wnli", "does a sentence follow, pronouns", "sentence1", "sentence2", FOLLOWS, NO_YES, ("acc",)),
)  # fmt: skip
