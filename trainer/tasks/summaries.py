"""CNN/DailyMail (arXiv 1704.04368, version 3.0.0): the article's highlights, a sentence a line."""

from __future__ import annotations

from trainer.tasks.overlap import summary_scores
from trainer.tasks.task import Example, Row, Task

HUB = "https://huggingface.co/datasets/abisee/cnn_dailymail/resolve/main/3.0.0"


def _examples(row: Row) -> list[Example]:
    return [Example(source=row["article"].strip(), ask="\nTL;DR:", answers=(row["highlights"].strip(),))]


CNN_DAILYMAIL = Task(
    name="cnn_dailymail",
    line="summaries of news, by ROUGE and BLEU",
    examples=_examples,
    texts=summary_scores,
    columns=("article", "highlights"),
    baseline="lead-3",
    answer_tokens=128,
    urls={
        "train": tuple(f"{HUB}/train-{i:05d}-of-00003.parquet" for i in range(3)),
        "validation": (f"{HUB}/validation-00000-of-00001.parquet",),
    },
)
