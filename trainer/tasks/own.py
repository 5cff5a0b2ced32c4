"""A task of the user's: a TOML file that says where rows are, how they become text, and how answers are scored.

path = "qa.jsonl"                    # rows; also validation = "qa_dev.jsonl"
source = "{context}"                 # may be shortened where the context is too short
prompt = "\\nQuestion: {question}"    # behind it, never cut
ask = "\\nAnswer:"
answer = "answer"                    # a column: a text, a list of texts, or a class with labels
metric = "squad"                     # squad, rouge, or with labels acc, f1, macro_f1, mcc
labels = ["no", "yes"]
"""

from __future__ import annotations

import string
import tomllib
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.tasks.judged import by_label
from trainer.tasks.labels import METRICS
from trainer.tasks.overlap import summary_scores
from trainer.tasks.spans import squad_scores
from trainer.tasks.task import Example, Row, Task, word

TEXTS = {"squad": squad_scores, "rouge": summary_scores}
KNOWN = ("path", "validation", "name", "source", "prompt", "ask", "answer", "metric", "labels", "answer_tokens")


def own_task(path: Path) -> tuple[Task, dict[str, Path]]:
    """The task, and its files by split. UserError says what the file lacks."""
    values = _read(path)
    templates = {name: str(values.get(name, "")) for name in ("source", "prompt", "ask")}
    columns = sorted({c for template in templates.values() for c in _columns(template, path)} | {values["answer"]})
    words, metric = tuple(map(str, values.get("labels", ()))), values["metric"]
    if metric not in (METRICS if words else TEXTS):
        known = ", ".join(METRICS if words else TEXTS)
        raise UserError(f"{path}: metric={metric!r} is not known: choose from {known} (others need labels).")

    def examples(row: Row) -> list[Example]:
        source, prompt, ask = (template.format_map(row) for template in templates.values())
        given = row[values["answer"]]
        if words:
            label = words.index(given) if given in words else int(given)
            return [Example(source=source, after=prompt, ask=ask, answers=word(words, label), label=label)]
        answers = tuple(map(str, given)) if isinstance(given, list) else (str(given),)
        return [Example(source=source, after=prompt, ask=ask, answers=answers)]

    task = Task(
        name=values.get("name", path.stem),
        line=f"of {path.name}",
        examples=examples,
        texts=by_label(words, (metric,)) if words else TEXTS[metric],
        columns=tuple(columns),
        kind="label" if words else "text",
        labels=words,
        metrics=(metric,) if words else (),
        baseline="majority" if words else "lead-3" if metric == "rouge" else "first words",
        answer_tokens=int(values.get("answer_tokens", 32)),
    )
    files = {"train": values["path"], "validation": values.get("validation")}
    return task, {split: path.parent / file for split, file in files.items() if file}


def _read(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as TOML ({' '.join(str(error).split())[:100]}).") from None
    if missing := [name for name in ("path", "source", "answer", "metric") if not values.get(name)]:
        raise UserError(f"{path} does not say {missing[0]}: a task file has {', '.join(KNOWN)}.")
    if unknown := sorted(set(values) - set(KNOWN)):
        raise UserError(f"{path} has {unknown[0]!r}, which means nothing: a task file has {', '.join(KNOWN)}.")
    return values


def _columns(template: str, path: Path) -> list[str]:
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name]
    except ValueError as error:
        raise UserError(f"{path}: the template {template!r} cannot be read ({error}).") from None
