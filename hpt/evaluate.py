"""`python -m hpt.evaluate runs/NAME`: a trained model's scores on zero-shot tasks, in one table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hpt.console import cli
from hpt.console.tables import Fitting
from trainer.addresses import masked
from trainer.errors import UserError
from trainer.files import read_json, write_atomic
from trainer.storage import Store

if TYPE_CHECKING:
    from trainer.tasks import Task

QUIET_SECONDS = 5.0  # before progress is shown
PLAIN_SECONDS = 15.0  # between lines where the output is not a terminal


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(cli.Common):
    """Evaluate a run. Results are kept in its evaluations.json, by task."""

    run: tyro.conf.Positional[str]
    """Directory of a run of hpt.train, or a checkpoint file in one; or their address in an object store."""
    tasks: tuple[str, ...] = ("val", "hellaswag", "lambada", "blimp")
    """val (the run's held-out tokens, or a text given with --data), hellaswag, lambada, blimp, blimp_supplement, piqa,
    arc_easy, arc_challenge, winogrande, copa, boolq, openbookqa, or choice (your own: query, choices, gold); of a
    fine-tuned run also cnn_dailymail, squad, squad_v2 and GLUE's and SuperGLUE's (hpt.finetune)."""
    limit: int | None = None
    """At most so many items of a task, spread evenly over its file."""
    data: tuple[str, ...] = ()
    """Files of tasks, as TASK=PATH: .jsonl(.gz/.xz/.zst), or a folder or .zip of them."""
    download: bool = False
    """Fetch missing files from where their authors publish them, into the cache."""
    task_file: tuple[Path, ...] = ()
    """Fine-tuning tasks of your own: TOML files (docs/finetuning.md)."""
    written: bool = False
    """Score what the model writes where a task has a zero-shot form as well (boolq, copa)."""
    beams: int = 1
    """Of fine-tuning tasks: beginnings that are followed; 1: greedy decoding."""
    max_tokens: int | None = None
    """Of fine-tuning tasks: most tokens of an answer; default: the task's."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(EvaluateConfig, argv, "hpt.evaluate")

    from hpt.finetuning.scored import Writing, own_files, score_written, written_tasks  # torch: not for --help
    from trainer.checkpoints.trained import open_trained
    from trainer.evals.evaluators import EVALUATORS, evaluate, locate
    from trainer.tasks.files import Files

    console = config.console()
    writes = written_tasks(config.tasks, config.task_file, config.written)
    if not config.tasks and not writes:
        raise UserError(f"--tasks names none: give some of {', '.join(EVALUATORS)}.")
    check(config.tasks, config.data, writes)
    given, own = dict(file_of(text) for text in config.data), own_files(config.task_file)
    trained = open_trained(config.run)
    kept = results_path(trained.path)
    results = read_results(kept)
    with shown(console, "fetching") as progress:
        paths = {
            task: locate(task, given.get(task), config.download, progress(task), console.print)
            for task in config.tasks
            if task not in writes
        }
    paths |= {task: given.get(task) for task in writes}
    how = Writing(folder=kept.parent, limit=config.limit, beams=config.beams, max_tokens=config.max_tokens)
    ours: dict[str, dict[str, Any]] = {}
    for task, path in paths.items():
        began, more = time.perf_counter(), {}
        with shown(console, "evaluating") as progress:
            if task in writes:
                places = own.get(task, {}) | ({"": path} if path else {})
                files = Files(given=places, download=config.download, say=console.print)
                scores, more = score_written(trained, writes[task], files, how, progress(task), console.print)
            else:
                scores = evaluate(trained, trained.encoding, task, path, config.limit, progress=progress(task))
        ours[task] = {
            "step": trained.step,
            "checkpoint": trained.path.name,
            "data": None if path is None else str(path.resolve()),
            "limit": config.limit,
            "seconds": time.perf_counter() - began,
            "scores": [asdict(s) for s in scores],
            **more,
        }
        results |= {task: ours[task]}
        write_atomic(kept, json.dumps(results, indent=2).encode())  # after each: what is done stays done
    console.print(Fitting(table(ours, f"{masked(config.run)} at step {trained.step:,}"), ("seconds", "items")))
    console.print(f"kept in {put_back(config.run, kept)}")
    words = [f"{task} {s['name']} {s['value']:.4f}" for task, result in ours.items() for s in result["scores"]]
    config.answer(ours, "\n".join(words))
    return 0


def check(tasks: Sequence[str], data: Sequence[str], writes: Mapping[str, Task]) -> None:
    """UserError for tasks and files that mean nothing."""
    from trainer.evals.evaluators import EVALUATORS
    from trainer.tasks import TASKS

    for task in (*tasks, *(file_of(text)[0] for text in data)):
        if task not in EVALUATORS and task not in writes:
            known = [*EVALUATORS, *(name for name in TASKS if name not in EVALUATORS)]
            near = get_close_matches(task, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}."
            raise UserError(f"There is no evaluation called {task!r}: {hint}")
    if unused := [task for task, _ in map(file_of, data) if task not in (*tasks, *writes)]:
        raise UserError(f"--data gives a file for {unused[0]}, which is not among --tasks: add it there.")


def task_files(tasks: Sequence[str], data: Sequence[str]) -> dict[str, Path]:
    """Files of zero-shot tasks, given or fetched before; UserError for a task or a file that is not known."""
    from trainer.evals.evaluators import locate

    check(tasks, data, {})
    given = dict(map(file_of, data))
    if "val" in tasks and "val" not in given:
        raise UserError(
            "val is the run's held-out loss, which is measured anyway: leave it out, or give --data val=TEXT."
        )
    return {task: path for task in tasks if (path := locate(task, given.get(task), False))}


def file_of(text: str) -> tuple[str, Path]:
    task, equals, path = text.partition("=")
    if not equals or not path:
        raise UserError(f"--data {text!r} is not of the form TASK=PATH, such as hellaswag=hellaswag_val.jsonl.")
    return task, Path(path).expanduser()


def results_path(checkpoint: Path) -> Path:
    """evaluations.json of the run that a checkpoint belongs to."""
    folder = checkpoint.parent
    return (folder.parent if folder.name == "checkpoints" else folder) / "evaluations.json"


def put_back(run: str, kept: Path) -> str:
    """Results of a run in an object store go there as well; returns where they are."""
    if "://" not in run:
        return str(kept)
    base, _, options = run.partition("?")
    folder = base.rpartition("/checkpoints/")[0] if base.endswith(".safetensors") else base.rstrip("/")
    store = Store(f"{folder}?{options}" if options else folder)
    store.write(kept.name, kept.read_bytes())
    return store.join(kept.name)


def read_results(path: Path) -> dict[str, Any]:
    """What was evaluated before, by task."""
    return read_json(path) if path.exists() else {}


def table(results: dict[str, dict[str, Any]], title: str) -> Table:
    """A row a score, with its standard error behind the ±."""
    out = Table(box=SIMPLE, title=title, title_justify="left")
    for header in ("task", "metric", "value", "±", "items", "seconds"):
        out.add_column(header, justify="left" if header in ("task", "metric") else "right")
    for task, result in results.items():
        for i, score in enumerate(result["scores"]):
            error = score["standard_error"]
            out.add_row(
                "" if i else task,
                score["name"].replace("acc/", "· "),
                f"{score['value']:.4g}" if score["value"] >= 1e4 else f"{score['value']:.4f}",
                "" if error is None else f"{error:.4f}" if error < 1e4 else f"{error:.4g}",
                f"{score['count']:,}",
                "" if i else f"{result['seconds']:.1f}",
            )
    return out


@contextmanager
def shown(console: Console, doing: str):
    """Makes progress callbacks by task: nothing for QUIET_SECONDS, then a bar, or lines off a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    began = said = time.monotonic()

    def progress(task: str) -> Callable[[int, int], None]:
        row = bar.add_task(f"{doing} {task}", total=None)

        def update(done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            bar.update(row, completed=done, total=total or None)
            if now - began < QUIET_SECONDS:
                return
            if console.is_terminal:
                bar.start()
            elif now - said > PLAIN_SECONDS:
                said = now
                console.print(f"{doing} {task}: {done / total:.0%}" if total else f"{doing} {task}: {done:,} bytes")

        return update

    try:
        yield progress
    finally:
        if bar.live.is_started:
            bar.stop()


if __name__ == "__main__":
    cli.run(main)
