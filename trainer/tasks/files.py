"""Where a task's rows are: files of the user's, the cache, or the address where they are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data.corpus import held_out_rank
from trainer.data.folders import cache_dir
from trainer.errors import UserError
from trainer.evals.files import fetch
from trainer.tasks.rows import SPLITS, kind_of, rows
from trainer.tasks.task import Example, Task

HELD_OUT = 0.1
"""Of the rows, by a hash of their source, where no file of a validation split is given."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """Of one task; an empty path under a split: none was given for it."""

    given: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """By split, or "" for a file or folder of all."""
    download: bool = False
    say: Callable[[str], None] = print


def load(task: Task, split: str, files: Files, heads: bool = False) -> list[Example]:
    """All examples of a split, train or validation, in the order of the files. UserError where there are none."""
    paths, alone = _paths(task, split, files)
    found, placed, other = list[Example](), 0, False
    for path in paths:
        for where, row in rows(path):
            if (named := row.get("task")) is not None and named != task.name.removesuffix("_mm"):
                other = True
                continue
            if "split" in row and not _of_split(row["split"], split, task):
                other = True
                continue
            placed += 1
            made = task.made(row, where, heads)
            if alone and "split" not in row:
                made = [e for e in made if (held_out_rank(e.key) < HELD_OUT) == (split == "validation")]
            found += made
    if not found:
        names = ", ".join(map(str, paths))
        why = f"{placed:,} rows, too few to hold some out" if placed else "only others" if other else "no row at all"
        raise UserError(
            f"{task.name} has no rows of the split {split}: {names} holds {why}. Give it with --data "
            f"{task.name}/{split}=PATH."
        )
    return found


def _of_split(name: object, split: str, task: Task) -> bool:
    wanted = task.urls.get("validation", ("",))[0]
    if split == "validation" and task.name.startswith("mnli"):
        return str(name) == ("validation_mismatched" if "mismatched" in wanted else "validation_matched")
    return str(name).startswith(SPLITS[split])


def _paths(task: Task, split: str, files: Files) -> tuple[list[Path], bool]:
    """(files, whether they hold all splits and are to be parted by a hash)."""
    from trainer.evals.likelihood import silent  # torch: not for --help

    if (path := files.given.get(split) or files.given.get("")) is not None:
        if not path.exists():
            raise UserError(f"There is no {path}, which --data gives for {task.name}.")
        if path.is_file():
            other = {"train": "validation", "validation": "train"}[split]
            return [path], split not in files.given and other not in files.given
        return _in_folder(path, split)
    if files.given and split == "validation":  # a train file alone
        return [files.given["train"]], True
    if files.given:
        raise UserError(f"{task.name} has no rows to train on: give them with --data {task.name}/train=PATH.")
    kept = [_cached(task, split, i) for i in range(len(task.urls.get(split, ())))]
    if not kept or not all(p.is_file() for p in kept):
        if not files.download or not kept:
            at = f"add --download to fetch {task.urls[split][0]}, or " if kept else ""
            raise UserError(f"The rows of {task.name} are missing: {at}give them with --data {task.name}=PATH.")
        kept = [
            path if path.is_file() else fetch(f"tasks/{task.name}-{split}-{i}", url, "", silent, files.say)
            for i, (path, url) in enumerate(zip(kept, task.urls[split], strict=True))
        ]
    return kept, False


def _cached(task: Task, split: str, number: int) -> Path:
    suffix = Path(task.urls[split][number]).suffix
    return cache_dir() / "evals" / "tasks" / f"{task.name}-{split}-{number}{suffix}"


def _in_folder(folder: Path, split: str) -> tuple[list[Path], bool]:
    """By the words in the names of its files."""
    known = sorted(p for p in folder.iterdir() if p.is_file() and kind_of(p))
    for word in SPLITS[split]:
        if found := [p for p in known if word in p.name]:
            return found, False
    if not known:
        raise UserError(f"{folder} holds no file that tasks are read from.")
    others = {p for words in SPLITS.values() for p in known if any(w in p.name for w in words)}
    if others == set(known) and split == "train":
        raise UserError(f"{folder} holds no file of a split train: it has {', '.join(p.name for p in known)}.")
    return known, True
