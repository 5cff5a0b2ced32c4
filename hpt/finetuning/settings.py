"""Tasks and their files, as they are named on a command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import UserError
from trainer.evals.files import spread
from trainer.tasks import Example, Task, task_called
from trainer.tasks.files import Files, load
from trainer.tasks.own import own_task

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.checkpoints.trained import Trained

Given = dict[str, dict[str, Path]]
"""By task, then by split ("": all of them)."""


def the_tasks(names: Sequence[str], files: Sequence[Path]) -> tuple[list[Task], Given]:
    """Those named, and those of TOML files with the rows that they name. UserError for none, and for one twice."""
    tasks, given = [task_called(name) for name in names], Given()
    for file in files:
        task, paths = own_task(file)
        tasks.append(task)
        given[task.name] = paths
    if not tasks:
        raise UserError("--tasks names none: give some, such as --tasks squad, or --task-file of your own.")
    if twice := [t.name for i, t in enumerate(tasks) if t.name in {other.name for other in tasks[:i]}]:
        raise UserError(f"Task {twice[0]} is given twice: once is enough, and --weights makes its rows more.")
    return tasks, given


def given_files(pairs: Sequence[str], tasks: Sequence[Task], given: Given) -> Given:
    """TASK=PATH, TASK/SPLIT=PATH."""
    found = {name: dict(paths) for name, paths in given.items()}
    for pair in pairs:
        key, equals, path = pair.partition("=")
        name, _, split = key.partition("/")
        if not equals or not path or split not in ("", "train", "validation"):
            raise UserError(
                f"--data {pair!r} is not of the form TASK=PATH, TASK/train=PATH or TASK/validation=PATH, such as "
                "squad=train-v1.1.json."
            )
        if name not in {task.name for task in tasks}:
            raise UserError(f"--data gives rows for {name}, which is not among --tasks: add it there.")
        found.setdefault(name, {})[split] = Path(path).expanduser()
    return found


def examples_of(
    task: Task,
    given: Mapping[str, Path],
    download: bool,
    limit: int | None,
    say: Callable[[str], None],
    heads: bool = False,
) -> tuple[list[Example], list[Example]]:
    """Of the splits train and validation."""
    files = Files(given=given, download=download, say=say)
    train, validation = (load(task, split, files, heads) for split in ("train", "validation"))
    return [train[i] for i in spread(len(train), limit)], validation


def tokenizer_fits(trained: Trained) -> None:
    """UserError for a tokenizer that is not the model's."""
    if trained.encoding.n_vocab > trained.run.model.vocabulary:
        raise UserError(
            f"The tokenizer of {trained.path} has {trained.encoding.n_vocab:,} ids and the model "
            f"{trained.run.model.vocabulary:,}: it is another model's."
        )
