"""`python -m hpt.train`: the run one can afford once, at the lr that a search recommends."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hpt.console import cli
from hpt.console.final import Follower, dry_run, show_result, train_here, train_on_ray
from hpt.console.progress import doing
from hpt.console.settings import override_data
from hpt.reports.gather import read_answer
from hpt.tracking.mirror import Logger, check_loggers
from hpt.tracking.server import tracking_uri as uri_of
from hpt.tracking.told import FinalRun
from search.execution.store import SearchDir
from trainer.addresses import masked
from trainer.checkpoints.copies import here
from trainer.config import RunConfig, from_json, override, to_dict
from trainer.data import Prepared, prepare
from trainer.errors import UserError
from trainer.files import in_a_jobs_folder, parse_json
from trainer.inputs import check_data
from trainer.presets import preset
from trainer.storage import Store

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.final import Plan


@dataclass(frozen=True, kw_only=True)
class TrainConfig(cli.Common):
    """Make the final run; started again with the same arguments, it goes on from its newest whole checkpoint."""

    search: str | None = None
    """Search directory, or its address in a store, whose target and recommended lr are used (also as --from)."""
    target: str = "laptop"
    """A preset, where there is no search."""
    lr: float | None = None
    """Peak learning rate; default: the search's recommendation."""
    corpus: str | None = None
    """Where the tokens are, if not where the target has them."""
    tokenizer: str | None = None
    """Likewise."""
    set: tuple[str, ...] = ()
    """Any field of the run, as KEY=VALUE."""
    out: str | None = None
    """Directory of the run: a folder, or an object store's address (s3://bucket/runs/NAME); default: runs/NAME."""
    workers: int | None = None
    """Devices (or, without GPUs, processes) to train on, through Ray Train; default: this process alone."""
    max_workers: int | None = None
    """Elastic: start with what there is room for, from --workers to this."""
    shard: bool = False
    """Split parameters and optimiser over the workers (FSDP), for models that do not fit one device."""
    compile: bool | None = None
    """torch.compile; default: on a GPU."""
    evaluations: int = 20
    """Validations on the way, evenly spread."""
    patience: int | None = None
    """Stop after so many validations without a new lowest loss."""
    samples: int = 0
    """Texts to generate at each validation."""
    tasks: tuple[str, ...] = ()
    """Zero-shot tasks to score at each validation, such as hellaswag; see hpt.evaluate for names and files."""
    task_limit: int = 500
    """Items of each task."""
    save_minutes: float = 5.0
    """Between checkpoints."""
    keep: int = 3
    """Newest checkpoints that stay."""
    stop_after_hours: float | None = None
    """Stop with a checkpoint after this much training time, earlier sessions included."""
    stop_after_usd: float | None = None
    """The same in dollars; needs --usd-per-hour."""
    usd_per_hour: float = 0.0
    """Price of one device."""
    init_from: str | None = None
    """Checkpoint file whose weights are the start."""
    start_step: int = 0
    """Step at which schedule and data start, such as the seed checkpoint's (llm.c's -ss)."""
    register: str | None = None
    """Register the finished model in MLflow under this name."""
    tracking_uri: str | None = None
    """Of MLflow; default: MLFLOW_TRACKING_URI, else SQLite in the working directory."""
    log: tuple[Logger, ...] = ()
    """Beside MLflow: tensorboard, wandb; in the run's folder, or runs/NAME where that is in a store."""
    dry_run: bool = False
    """Only say what would be done, for how long and how much."""

    def __post_init__(self) -> None:
        if self.stop_after_usd is not None and self.usd_per_hour <= 0:
            raise UserError("--stop-after-usd needs --usd-per-hour: the price of one device for an hour.")
        if self.max_workers is not None and self.max_workers < (self.workers or 1):
            raise UserError(f"--max-workers {self.max_workers} is less than --workers {self.workers or 1}.")

    @property
    def stop_seconds(self) -> float:
        hours = self.stop_after_hours or math.inf
        if self.stop_after_usd is not None:
            hours = min(hours, self.stop_after_usd / self.usd_per_hour / (self.max_workers or self.workers or 1))
        return hours * 3600


def main(argv: Sequence[str]) -> int:
    argv = ["--search" if a == "--from" else a for a in argv]  # `from` cannot be a field's name
    config = cli.parse(TrainConfig, argv, "hpt.train")
    console = config.console()
    run, tags, answer = resolve(config)
    name = here(config.search).name if config.search else Path(config.target).name.removesuffix(".toml")
    out = config.out or str(Path("runs") / name)
    if "://" not in out and in_a_jobs_folder(Path(out)):
        console.print(
            f"{Path(out).absolute()} is in the folder of a Ray job and deleted with it: to keep what is trained give "
            "--out on storage that stays, and MLFLOW_TRACKING_URI of a server",
            style="yellow",
        )
    plan = make_plan(config, run, out)
    with doing(console, "preparing data") as say:
        data = prepare(run.data, vocabulary=run.model.vocabulary, say=say)
    check_data(run, data)
    on_ray = config.workers is not None or "RAY_ADDRESS" in os.environ
    if config.dry_run:
        found = dry_run(plan, data, config.workers or 1, config.usd_per_hour, console)
        config.answer(found, f"{found['hours']:.4g} hours")
        return 0
    check_loggers(config.log)
    identity = claim(Store(out), run, data, config.search)
    final = FinalRun(
        id=identity, experiment=name, uri=uri_of(config.tracking_uri), tags=tags, run=run, register=config.register,
        folder=Store(out).local or Path("runs") / name, log=config.log,
    )  # fmt: skip
    follower = Follower(plan, final, data, console)
    if on_ray:
        train_on_ray(plan, follower, config.workers or 1, config.max_workers)
    else:
        train_here(plan, data, follower)
    code, result = show_result(follower, answer, config.usd_per_hour * (config.workers or 1))
    loss = "" if result.get("loss") is None else f", validation loss {result['loss']:.4f}"
    config.answer({**result, "directory": masked(out)}, f"{result['status']}{loss}")
    return code


def make_plan(config: TrainConfig, run: RunConfig, out: str) -> Plan:
    from trainer.evals.evaluators import EVALUATORS
    from trainer.final import Plan

    if unknown := [task for task in config.tasks if task not in EVALUATORS]:
        raise UserError(f"There is no evaluation called {unknown[0]!r}: choose from {', '.join(EVALUATORS)}.")
    return Plan(
        run=run,
        store=out if "://" in out else str(Path(out).absolute()),
        evaluations=config.evaluations,
        save_seconds=60 * config.save_minutes,
        keep=config.keep,
        patience=config.patience,
        stop_seconds=config.stop_seconds,
        init_from=config.init_from,
        start_step=config.start_step,
        samples=config.samples,
        tasks=config.tasks,
        task_limit=config.task_limit,
        shard=config.shard,
        compile=config.compile,
    )


def resolve(config: TrainConfig) -> tuple[RunConfig, dict[str, str], dict]:
    """The run with its lr, the tags that tie it to its search, and the search's answer (empty: none)."""
    tags, answer = dict[str, str](), {}
    if config.search is None:
        run, lr = preset(config.target), config.lr
        if lr is None:
            raise UserError("Give --lr, or --from a search directory that has a recommendation.")
    else:
        place = masked(config.search)
        directory = SearchDir(here(config.search))
        saved, answer = directory.read_config(), read_answer(directory)
        if not {"target", "id"} <= set(saved):
            raise UserError(f"{place}/config.json is damaged (it names no target): restore it.")
        found = {k: answer[k] for k in ("batch", "weight_decay", "warmup") if answer.get(k) is not None}
        target = from_json(RunConfig, saved["target"], f"{place}/config.json")
        values = {**to_dict(target), **found, **answer["settings"]}
        run = from_json(RunConfig, values, f"{place}/recommendation.json")
        lr = answer["lr"] if config.lr is None else config.lr
        tags["hpt.search"] = saved["id"]
        if lr is None:
            raise UserError(f"{place} recommends no lr ({' '.join(answer['reasons'])}): give --lr yourself.")
    run = override_data(run, config.corpus, config.tokenizer)
    return replace(override(run, config.set), lr=lr), tags, answer


def claim(store: Store, run: RunConfig, data: Prepared, search: str | None, finetuned: str | None = None) -> str:
    """Make the run's directory, or find it made for the same run; returns the run's id."""
    described = json.loads(json.dumps(to_dict(run)))
    if (content := store.read("run.json")) is not None:
        if parse_json(content, store.join("run.json")) != described:
            raise UserError(
                f"{store.shown} holds another run: choose another --out, or use the arguments it was made with."
            )
    else:
        store.write("run.json", json.dumps(described, indent=2).encode())
    if data.tokenizer.endswith(".json"):
        store.write("tokenizer.json", Path(data.tokenizer).read_bytes())
    if (content := store.read("origin.json")) is None:
        found = search and (masked(search) if "://" in search else str(Path(search).absolute()))
        origin = {"id": uuid.uuid4().hex, "search": found} | ({"finetuned": finetuned} if finetuned else {})
        content = json.dumps(origin).encode()
        store.write("origin.json", content)
    return str(parse_json(content, store.join("origin.json")).get("id") or uuid.uuid4().hex)


if __name__ == "__main__":
    cli.run(main)
