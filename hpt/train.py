"""`python -m hpt.train`: the run one can afford once, at the lr that a search recommends. One process, one device."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from hpt import cli
from hpt.screen import duration, short
from hpt.tracking import record_run, run_params, tracking_uri
from search.store import SearchDir
from trainer.checkpoint import write_atomic
from trainer.config import RunConfig, from_dict, override, to_dict
from trainer.counts import parameters
from trainer.data import check_enough, prepare
from trainer.errors import UserError
from trainer.loop import Report, Training
from trainer.presets import preset

SAVE_SECONDS = 60.0  # between checkpoints
SAY_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Make the final run; started again with the same arguments, it goes on from its newest checkpoint."""

    search: Path | None = None
    """Search directory whose target and recommended lr are used (also as --from)."""
    target: str = "laptop"
    """A preset, where there is no search."""
    lr: float | None = None
    """Peak learning rate; default: the search's recommendation."""
    set: tuple[str, ...] = ()
    """Any field of the run, as KEY=VALUE."""
    out: Path | None = None
    """Where checkpoint and results go; default: runs/NAME of the search or target."""
    evaluations: int = 20
    """Validations on the way, evenly spread."""
    tracking_uri: str | None = None
    """Of MLflow; default: MLFLOW_TRACKING_URI, else SQLite in the working directory."""


def main(argv: Sequence[str]) -> int:
    argv = ["--search" if a == "--from" else a for a in argv]  # `from` cannot be a field's name
    config = cli.parse(TrainConfig, argv, "hpt.train")
    console = Console(highlight=False)
    run, tags = resolve(config)
    out = config.out or Path("runs") / (config.search.name if config.search else config.target)
    data = prepare(run.data, vocabulary=run.model.vocabulary, say=console.print)
    check_enough(data, run.data, run.tokens)
    training = Training(run, data)
    checkpoint = out / "checkpoint.safetensors"
    if (out / "run.json").exists():
        if json.loads((out / "run.json").read_text()) != json.loads(json.dumps(to_dict(run))):
            raise UserError(f"{out} holds another run: choose another --out, or use the arguments it was made with.")
        if checkpoint.exists():
            training.load(checkpoint)
    write_atomic(out / "run.json", json.dumps(to_dict(run), indent=2).encode())
    begun = f" from step {training.step:,}" if training.step else ""
    size = short(parameters(run.model).total)
    console.print(f"training {size} parameters for {run.steps:,} steps at lr {run.lr:.3g}{begun} in {out}/")
    reports = follow(training, config, checkpoint, console)
    last = reports[-1]
    train_curve = tuple((r.tokens, r.train_loss) for r in reports if r.train_loss is not None)
    val_curve = tuple((r.tokens, r.val_loss) for r in reports if r.val_loss is not None)
    result = {"status": last.status, "loss": last.val_loss, "bits_per_byte": last.bits_per_byte, "reason": last.reason}
    write_atomic(out / "result.json", json.dumps({**result, "curve": val_curve, "train_curve": train_curve}).encode())
    metrics = {"final_val_loss": last.val_loss, "bits_per_byte": last.bits_per_byte, "lr": run.lr}
    uri, curves = tracking_uri(config.tracking_uri), {"val_loss": val_curve, "train_loss": train_curve}
    if warning := record_run(uri, out.name, tags, run_params(run, run.tokens), metrics, curves):
        console.print(warning, style="yellow")
    if last.status != "finished":
        console.print(
            f"{last.status}: {last.reason}; the last checkpoint is {checkpoint}; try a lower --lr", style="red"
        )
        return 1
    console.print(
        f"validation loss [bold]{last.val_loss:.4f}[/bold] nats a token, {last.bits_per_byte:.4f} bits a byte"
    )
    return 0


def resolve(config: TrainConfig) -> tuple[RunConfig, dict[str, str]]:
    """The run with its lr, and the tags that tie it to its search."""
    tags = {"hpt.role": "final"}
    if config.search is None:
        run, lr = preset(config.target), config.lr
        if lr is None:
            raise UserError("Give --lr, or --from a search directory that has a recommendation.")
    else:
        directory = SearchDir(config.search)
        saved, answer = directory.read_config(), directory.read_recommendation()
        found = {k: answer[k] for k in ("batch", "weight_decay", "warmup") if answer.get(k) is not None}
        run = replace(from_dict(RunConfig, saved["target"]), **found, **answer["settings"])
        lr = config.lr or answer["lr"]
        tags["hpt.search"] = saved["id"]
        if lr is None:
            raise UserError(f"{config.search} recommends no lr ({' '.join(answer['reasons'])}): give --lr yourself.")
    return replace(override(run, config.set), lr=lr), tags


def follow(training: Training, config: TrainConfig, checkpoint: Path, console: Console) -> list[Report]:
    """Train to the end, saving and saying how it goes."""
    every = max(1, training.run.steps // config.evaluations)
    saved = said = time.monotonic()
    first, reports = training.step, list[Report]()
    try:
        for report in training.reports(evaluate_every=every):
            reports.append(report)
            now = time.monotonic()
            if report.status == "running" and now - saved > SAVE_SECONDS:
                training.save(checkpoint)
                saved = time.monotonic()
            if now - said > SAY_SECONDS and report.train_loss is not None:
                said = now
                left = report.seconds / max(1, report.step - first) * (training.run.steps - report.step)
                val = "" if report.val_loss is None else f", validation {report.val_loss:.4f}"
                line = f"step {report.step:,}/{training.run.steps:,}: loss {report.train_loss:.4f}{val}"
                console.print(f"{line}, {duration(left)} left")
    except KeyboardInterrupt:
        training.save(checkpoint)
        console.print(f"interrupted at step {training.step:,}; the same command goes on from {checkpoint}")
        raise
    if reports[-1].status == "finished":
        training.save(checkpoint)
    return reports


if __name__ == "__main__":
    cli.run(main)
