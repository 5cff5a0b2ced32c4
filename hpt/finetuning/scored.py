"""hpt.evaluate on fine-tuning tasks: what the model writes, scored, kept, beside a baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.evals.score import Score
from trainer.files import write_atomic
from trainer.tasks import TASKS, Task
from trainer.tasks.files import Files, load
from trainer.tasks.own import own_task

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.checkpoints.trained import Trained

KEPT = 500  # answers that are kept


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How answers are written and where they are kept."""

    folder: Path
    limit: int | None = None
    beams: int = 1
    max_tokens: int | None = None


def written_tasks(names: tuple[str, ...], task_files: tuple[Path, ...], all_of_them: bool) -> dict[str, Task]:
    """Of the tasks asked for those that the model answers in writing: all that have no zero-shot form, or every one of
    the table; and those of TOML files."""
    from trainer.evals.evaluators import EVALUATORS

    found = {name: TASKS[name] for name in names if name in TASKS and (all_of_them or name not in EVALUATORS)}
    if all_of_them and (other := [name for name in names if name not in TASKS]):
        raise UserError(f"--written is of fine-tuning tasks, and {other[0]} is none: choose from {', '.join(TASKS)}.")
    return found | {task.name: task for task, _ in map(own_task, task_files)}


def own_files(task_files: tuple[Path, ...]) -> dict[str, dict[str, Path]]:
    """Rows of the tasks of TOML files, by split."""
    return {task.name: paths for task, paths in map(own_task, task_files)}


def score_written(
    trained: Trained, task: Task, files: Files, how: Writing, progress: Callable[[int, int], None],
    say: Callable[[str], None],
) -> tuple[list[Score], dict[str, Any]]:  # fmt: skip
    """(scores, what else is worth keeping)."""
    from trainer.finetune.answering import answer

    found = answer(
        trained, task, load(task, "validation", files), limit=how.limit, beams=how.beams, max_tokens=how.max_tokens,
        progress=progress,
    )  # fmt: skip
    lines = [
        json.dumps({"question": (e.after + e.ask).strip(), "answers": e.answers, "said": said})
        for e, said in zip(found.examples[:KEPT], found.answers[:KEPT], strict=True)
    ]
    file = how.folder / "answers" / f"{task.name}.jsonl"
    write_atomic(file, ("\n".join(lines) + "\n").encode())
    text = f"{task.name}: {found.tokens_per_second:,.0f} tokens/s written"
    if found.shortened:
        text += f"; the source of {found.shortened:,} of {len(found.examples):,} prompts was shortened"
    say(f"{text}; answers are in {file}")
    if found.below:
        say(f"[yellow]{task.name}: {found.below}[/yellow]")
    more = {"tokens_per_second": found.tokens_per_second, "shortened": found.shortened, "beams": how.beams}
    return found.scores, more
