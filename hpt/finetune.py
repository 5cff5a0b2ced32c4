"""`python -m hpt.finetune runs/NAME --tasks ...`: one pretrained model made to do tasks, by text or by heads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from hpt.console import cli
from hpt.tracking.mirror import Logger, check_loggers
from trainer.addresses import masked
from trainer.config import override
from trainer.errors import UserError
from trainer.files import write_atomic
from trainer.storage import Store

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from hpt.finetuning.settings import Given
    from trainer.checkpoints.trained import Trained
    from trainer.tasks import Task


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(cli.Common):
    """Fine-tune a run of hpt.train. By text: one model for all --tasks, their rows mixed. With --heads: a classifier
    for each. Started again with the same arguments, it goes on."""

    run: tyro.conf.Positional[str]
    """Directory of a run, or a checkpoint file in one; or their address in an object store."""
    tasks: tuple[str, ...] = ()
    """cnn_dailymail, squad, squad_v2; cola sst2 mrpc qqp stsb mnli mnli_mm qnli rte wnli (GLUE); boolq cb copa multirc
    record rte wic wsc (SuperGLUE)."""
    task_file: tuple[Path, ...] = ()
    """Tasks of your own: TOML files (docs/finetuning.md)."""
    data: tuple[str, ...] = ()
    """Rows, as TASK=PATH (a file or folder; a tenth is held out where it names no splits), TASK/train=PATH or
    TASK/validation=PATH: .jsonl, .json, .csv, .tsv (also .gz, .xz, .zst), .parquet, .arrow."""
    download: bool = False
    """Fetch missing rows from where their authors publish them, into the cache."""
    out: str | None = None
    """Directory of the fine-tuned run; default: beside the run, with -ft behind its name."""
    weights: tuple[float, ...] = ()
    """How often each task's rows are in the mixture, in the order of --tasks; default: once."""
    heads: bool = False
    """Train a small head for each task instead of text: on the last token (first, of a masked model), or one that marks
    where the answer stands (squad)."""
    lr: float | None = None
    """Peak learning rate; default: 0.3 x pretraining's."""
    epochs: float = 3.0
    """Times that every row is read; with --heads the best one counts."""
    batch: int | None = None
    """Tokens a step (with --heads: examples, 32 by default)."""
    length: int | None = None
    """With --heads: tokens that are read of an example; default: 128. Of a text with an answer (squad): of each of its
    windows; default: 384. Never more than the context."""
    limit: int | None = None
    """At most so many training rows of each task, spread evenly over its file."""
    seed: int = 0
    """Of the mixture, the order and the heads."""
    seeds: int = 1
    """With --heads: how many runs of each task, with mean and deviation."""
    evaluations: int = 10
    """Validations on the way."""
    patience: int | None = None
    """Stop after so many validations (with --heads: epochs) that were not better."""
    set: tuple[str, ...] = ()
    """Any field of the run, as KEY=VALUE."""
    register: str | None = None
    """Register the finished model in MLflow under this name."""
    tracking_uri: str | None = None
    """Of MLflow; default: MLFLOW_TRACKING_URI, else SQLite in the working directory."""
    log: tuple[Logger, ...] = ()
    """Beside MLflow: tensorboard, wandb; in the run's folder, or runs/NAME where that is in a store."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(FinetuneConfig, argv, "hpt.finetune")

    from hpt.finetuning.settings import given_files, the_tasks
    from trainer.checkpoints.trained import open_trained

    check_loggers(config.log)
    tasks, files = the_tasks(config.tasks, config.task_file)
    given = given_files(config.data, tasks, files)
    if config.weights and len(config.weights) != len(tasks):
        raise UserError(f"--weights has {len(config.weights)} numbers and there are {len(tasks)} tasks: one each.")
    trained = open_trained(config.run)
    if config.heads:
        return _heads(config, trained, tasks, given)
    return tune_text(config, trained, tasks, given)


def _heads(config: FinetuneConfig, trained: Trained, tasks: Sequence[Task], given: Given) -> int:
    from hpt.console.tables import Fitting
    from hpt.finetuning.heads import KEPT, Heads, table, tune_heads, warnings
    from hpt.finetuning.text import SHARE_OF_LR
    from hpt.tracking.server import tracking_uri
    from trainer.finetune.heads import HeadSettings

    out = config.out or f"{default_out(config.run)}-heads"
    if "://" in out:
        raise UserError("--heads keeps its results in a folder of this machine: give --out.")
    if config.set or config.weights:
        raise UserError("--set and --weights are of fine-tuning by text: leave them out with --heads.")
    settings = HeadSettings(
        lr=config.lr or SHARE_OF_LR * (trained.run.lr or 1e-4),
        epochs=max(1, round(config.epochs)),
        batch=config.batch or 32,
        length=config.length,
        seed=config.seed,
        patience=config.patience,
    )
    plan = Heads(
        source=config.run, out=Path(out), settings=settings, seeds=config.seeds, limit=config.limit,
        download=config.download, uri=tracking_uri(config.tracking_uri), log=config.log,
    )  # fmt: skip
    write_atomic(plan.out / "origin.json", json.dumps({"finetuned": source_of(config.run)}).encode())
    console = config.console()
    found = tune_heads(plan, trained, tasks, given, console)
    console.print(Fitting(table(found, f"{plan.source}, heads"), ("tokens/s", "examples", "best epoch", "seeds", "sd")))
    for line in warnings(found):
        console.print(line, style="yellow")
    console.print(
        f"kept in {plan.out / KEPT}; of several epochs the best on the validation split counts, as BabyLM does"
    )
    words = [f"{task} {next(iter(result['seeds'].values()))['scores']}" for task, result in found.items()]
    config.answer(found, "\n".join(words))
    return 0


def tune_text(config: FinetuneConfig, trained: Trained, tasks: Sequence[Task], given: Given) -> int:
    from hpt.console.final import Follower, show_result, train_here
    from hpt.finetuning.settings import examples_of
    from hpt.finetuning.text import Text, text_run
    from hpt.tracking.server import tracking_uri
    from hpt.tracking.told import FinalRun
    from hpt.train import claim
    from trainer.data import prepare
    from trainer.final import BEST, Plan

    console = config.console()
    found = {
        task.name: examples_of(task, given.get(task.name, {}), config.download, config.limit, console.print)
        for task in tasks
    }
    how = Text(
        epochs=config.epochs, seed=config.seed, weights=config.weights, lr=config.lr, batch=config.batch
    )  # fmt: skip
    run = override(text_run(trained, found, how, console.print), config.set)
    out = config.out or default_out(config.run)
    plan = Plan(
        run=run,
        store=out if "://" in out else str(Path(out).absolute()),
        evaluations=config.evaluations,
        patience=config.patience,
        init_from=str(trained.path.absolute()),
        best=True,
    )
    data = prepare(run.data, vocabulary=run.model.vocabulary)
    identity = claim(Store(out), run, data, None, finetuned=source_of(config.run))
    tags = {"hpt.finetuned": masked(config.run), "hpt.tasks": " ".join(found)}
    name = Path(out.rstrip("/")).name
    final = FinalRun(
        id=identity, experiment=name, uri=tracking_uri(config.tracking_uri), tags=tags, run=run,
        register=config.register, folder=Store(out).local or Path("runs") / name, log=config.log,
    )  # fmt: skip
    follower = Follower(plan, final, data, console)
    train_here(plan, data, follower)
    code, result = show_result(follower, {}, 0.0)
    curve = [loss for _, loss in result["curve"]]
    if code == 0 and curve and min(curve) < curve[-1]:
        console.print(f"the lowest validation loss was {min(curve):.4f} nats: its weights are in {masked(out)}/{BEST}")
    console.print(f"score it           python -m hpt.evaluate {masked(out)} --tasks {' '.join(found)}")
    config.answer({**result, "directory": masked(out)}, f"{result['status']}, validation loss {result['loss']}")
    return code


def source_of(run: str) -> str:
    return masked(run) if "://" in run else str(Path(run).absolute())


def default_out(run: str) -> str:
    base, _, options = run.partition("?")
    folder = base.rstrip("/")
    if folder.endswith(".safetensors"):
        folder = folder.rpartition("/")[0].removesuffix("/checkpoints")
    return f"{folder}-ft" + (f"?{options}" if options else "")


if __name__ == "__main__":
    cli.run(main)
