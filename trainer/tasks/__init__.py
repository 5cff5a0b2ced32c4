"""Fine-tuning tasks, one table: CNN/DailyMail, SQuAD, GLUE, SuperGLUE, and a user's own file."""

from __future__ import annotations

from difflib import get_close_matches

from trainer.errors import UserError
from trainer.tasks.glue import GLUE
from trainer.tasks.squad import SQUAD, SQUAD_V2
from trainer.tasks.summaries import CNN_DAILYMAIL
from trainer.tasks.superglue import SUPERGLUE
from trainer.tasks.task import Example as Example
from trainer.tasks.task import Task as Task

TASKS: dict[str, Task] = {task.name: task for task in (CNN_DAILYMAIL, SQUAD, SQUAD_V2, *GLUE, *SUPERGLUE)}


def task_called(name: str) -> Task:
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(TASKS)}, or give --task-file."
        raise UserError(f"There is no task called {name!r}: {hint}")
    return TASKS[name]
