"""`python -m hpt.merge`: experts trained from one seed checkpoint, averaged or mixed: the loss of each way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.box import SIMPLE
from rich.table import Table

from hpt.console import cli
from hpt.console.tables import Fitting
from trainer.config import DataConfig, to_dict
from trainer.errors import UserError
from trainer.files import write_atomic

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.architecture.model import Transformer
    from trainer.checkpoints.trained import Trained
    from trainer.merge import Domain

STRANGERS = 0.1  # cosine of weights below which two models share no seed


@dataclass(frozen=True, kw_only=True)
class MergeConfig(cli.Common):
    """Average experts into one run, and compare with each of them and with their ensemble."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs, or checkpoint files: two or more."""
    out: Path
    """Directory of the merged run."""
    method: Literal["uniform", "weighted", "greedy"] = "uniform"
    """greedy: from the best expert on, take in whoever does not raise the validation loss."""
    weights: tuple[float, ...] = ()
    """One a run, for weighted."""
    corpus: tuple[str, ...] = ()
    """Corpora to measure on; default: each run's own held-out tokens."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(MergeConfig, argv, "hpt.merge")

    from trainer.checkpoints.trained import open_trained
    from trainer.merge import check_alike, kinship

    check(config)
    console = config.console()
    experts = [open_trained(path) for path in config.runs]
    if not all(expert.run.model.causal for expert in experts):
        raise UserError("hpt.merge measures next-token losses, and masked language models have none.")
    check_alike(experts)
    if (cosine := kinship(experts)) < STRANGERS:
        console.print(
            f"the weights of these runs have little in common (cosine {cosine:.2f}): averages of models that were not "
            "trained from one seed checkpoint are usually useless",
            style="yellow",
        )
    with console.status("measuring"):
        domains = find_domains(experts, config.corpus)
        merged, weights = merge(config, experts, domains)
        losses = {str(path): [d.loss(e.model) for d in domains] for path, e in zip(config.runs, experts, strict=True)}
        losses["average"] = [d.loss(merged) for d in domains]
        losses["ensemble"] = [d.ensemble_loss([e.model for e in experts]) for d in domains]
    save(config.out, experts, merged)
    result = {"method": config.method, "weights": weights, "domains": [d.name for d in domains], "losses": losses}
    write_atomic(config.out / "merge.json", json.dumps(result, indent=2).encode())
    console.print(Fitting(table(losses, domains), [d.name for d in reversed(domains)]))
    console.print(f"weights {', '.join(f'{w:.2f}' for w in weights)}; the average is a run: {config.out}")
    config.answer(result, str(config.out))
    return 0


def check(config: MergeConfig) -> None:
    if len(config.runs) < 2:
        raise UserError("Merging needs two or more runs.")
    if (config.method == "weighted") != bool(config.weights):
        raise UserError("--weights and --method weighted go together: give one weight a run.")
    if config.weights and (len(config.weights) != len(config.runs) or not sum(config.weights)):
        raise UserError(f"--weights needs {len(config.runs)} numbers, none negative and not all 0.")
    if (config.out / "checkpoints").exists():
        raise UserError(f"{config.out} holds a run already: choose another --out.")


def find_domains(experts: Sequence[Trained], corpora: Sequence[str]) -> list[Domain]:
    """Each different corpus once."""
    from trainer.merge import Domain

    first = experts[0].run
    configs = [replace(first.data, corpus=c) for c in corpora] or [e.run.data for e in experts]
    unique: list[DataConfig] = [c for i, c in enumerate(configs) if c not in configs[:i]]
    return [Domain(c, first.model.context, first.model.vocabulary) for c in unique]


def merge(
    config: MergeConfig, experts: Sequence[Trained], domains: Sequence[Domain]
) -> tuple[Transformer, list[float]]:
    """The averaged model, and the weight of each expert in it."""
    from trainer.architecture.model import Transformer
    from trainer.merge import average, greedy_soup, tensors_of

    tensors = [tensors_of(e.model) for e in experts]
    scratch = Transformer(experts[0].run).to(experts[0].device).eval()

    def load(values: dict) -> Transformer:
        scratch.load_state_dict(values)
        return scratch

    def loss(values: dict) -> float:
        return sum(d.loss(load(values)) for d in domains) / len(domains)

    weights = list(config.weights) or [1.0] * len(experts)
    if config.method == "greedy":
        soup, taken = greedy_soup(tensors, loss)
        return load(soup), [1 / len(taken) if i in taken else 0.0 for i in range(len(experts))]
    return load(average(tensors, weights)), [w / sum(weights) for w in weights]


def save(out: Path, experts: Sequence[Trained], merged: Transformer) -> None:
    from trainer.checkpoints.file import checkpoint_path, save_checkpoint
    from trainer.merge import tensors_of

    first = experts[0]
    tensors = {f"model.{name}": tensor for name, tensor in tensors_of(merged).items()}
    step = max(e.step for e in experts)
    save_checkpoint(checkpoint_path(out / "checkpoints", step), tensors, {"step": step, "run": to_dict(first.run)})
    for folder in (first.path.parent, first.path.parent.parent):
        if (folder / "tokenizer.json").is_file():
            write_atomic(out / "tokenizer.json", (folder / "tokenizer.json").read_bytes())
            return


def table(losses: dict[str, list[float]], domains: Sequence[Domain]) -> Table:
    out = Table(box=SIMPLE, title="validation loss, nats a token", title_justify="left")
    for header in ("", *(d.name for d in domains), "mean"):
        out.add_column(header, justify="right" if header else "left")
    lowest = [min(values[i] for values in losses.values()) for i in range(len(domains))]
    for name, values in losses.items():
        cells = [f"[bold]{v:.4f}[/bold]" if v == low else f"{v:.4f}" for v, low in zip(values, lowest, strict=True)]
        out.add_row(name, *cells, f"{sum(values) / len(values):.4f}")
    return out


if __name__ == "__main__":
    cli.run(main)
