"""One screen of help for the commands with many flags: what one needs first, in groups, with three examples. All the
rest is told by --help-all, and a strategy's settings by --help-strategy NAME."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass

from trainer.errors import UserError

WIDTH = 80
FLAG = 27
"""Columns of the flags, with their indentation."""
Lines = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Guide:
    """What `--help` shows of a command."""

    line: str
    examples: Lines
    """(what it does, command)."""
    groups: Mapping[str, Lines]
    """(flag with its value, in a few words) by group."""
    positional: str = ""


GUIDES = {
    "search": Guide(
        line="Find the peak learning rate of a run that you can afford only once.",
        examples=(
            ("two minutes on a laptop", ""),
            ("a plan, nothing bought yet", "--target gpt2-124m --budget-usd 20 --device h100 --dry-run"),
            ("your own text", "--target llama-60m --tokens 2e8 --corpus texts/ --budget-hours 6"),
        ),
        groups={
            "Target": (
                ("--target NAME", "a preset (laptop, gpt2-124m ... 1.5b, llama-60m ... 7b ...) or a .toml file"),
                ("--tokens N", "to train on: 2.5e9, 20x (its parameters), optimal"),
                ("--batch N", "tokens an optimiser step"),
                ("--set KEY=VALUE ...", "any other field of the run: model.depth=6"),
            ),
            "Data": (
                ("--corpus PATH", "python, or text, jsonl, parquet, token shards"),
                ("--tokenizer NAME", "bpe:SIZE, gpt2, cl100k_base, o200k_base"),
                ("--trainer COMMAND", "yours: nanogpt, llmc, hf, 'train.py --lr {lr} ...'"),
            ),
            "Budget (default: as much as one target run)": (
                ("--budget-usd X", "most dollars; needs --usd-per-hour or --device"),
                ("--budget-hours X", "most device-hours; also --budget-flops, -runs"),
                ("--usd-per-hour X", "price of one device"),
            ),
            "Strategy": (
                ("--strategy NAME", "{strategies}; or module:Class"),
                ("--seed N", "of the draws, the weights and the data's order"),
                ("--slots N", "trials at a time; default: one a GPU or core"),
            ),
            "Output": (
                ("--name NAME, --out DIR", "where: searches/TARGET-STRATEGY"),
                ("--resume DIR", "go on; its budget may be raised"),
                ("--dry-run", "only the plan; --device NAME: for one not here"),
                ("--log NAME ...", "beside MLflow: tensorboard, wandb"),
                ("--json, --quiet", "for scripts"),
            ),
        },
    ),
    "train": Guide(
        line="Make the final run; started again with the same arguments, it goes on.",
        examples=(
            ("at the lr that a search found", "--from searches/laptop-hyperband"),
            ("how long, how much", "--from searches/mine --usd-per-hour 2.69 --dry-run"),
            ("your own lr, on 8 GPUs", "--target gpt2-124m --lr 6e-4 --workers 8"),
        ),
        groups={
            "Target": (
                ("--from DIR", "the search whose target and lr are used"),
                ("--target NAME", "a preset, where there is no search"),
                ("--lr X", "peak learning rate; default: the search's"),
                ("--set KEY=VALUE ...", "any field of the run"),
            ),
            "Data": (
                ("--corpus PATH", "the tokens, if not where the target has them"),
                ("--tokenizer NAME", "likewise"),
            ),
            "Budget": (
                ("--usd-per-hour X", "price of one device"),
                ("--stop-after-usd X", "stop with a checkpoint; also --stop-after-hours"),
                ("--workers N", "devices, through Ray Train; --shard splits the model"),
            ),
            "On the way": (
                ("--evaluations N", "validations; --samples texts, --tasks scores at each"),
                ("--save-minutes X", "between checkpoints; --keep of them stay"),
            ),
            "Output": (
                ("--out DIR", "runs/NAME, or s3://bucket/runs/NAME"),
                ("--register NAME", "the finished model in MLflow"),
                ("--log NAME ...", "beside MLflow: tensorboard, wandb"),
                ("--dry-run", "only how long and how much"),
                ("--json, --quiet", "for scripts"),
            ),
        },
    ),
    "cost": Guide(
        line="What runs would cost: 20 steps are timed here, or a device is assumed.",
        examples=(
            ("the small presets, on this machine", ""),
            ("one run, on a GPU that you may rent", "--targets gpt2-124m --set tokens=2.5e9 --device h100"),
            ("were a search's forecasts right?", "--search searches/laptop-hyperband"),
        ),
        groups={
            "Target": (
                ("--targets NAME ...", "presets"),
                ("--set KEY=VALUE ...", "any field of all of them"),
            ),
            "Budget": (
                ("--usd-per-hour X", "price of this device, or of --device"),
                ("--device NAME", "assume it, time nothing: h100, a100, rtx4090 ..."),
                ("--mfu X", "with --device: share of its peak it reaches"),
            ),
            "Output": (
                ("--search DIR", "compare forecast and truth of a search"),
                ("--json, --quiet", "for scripts"),
            ),
        },
    ),
    "report": Guide(
        line="A page about a search or a final run: report.html in its directory.",
        positional="DIR",
        examples=(
            ("one file, no network", "searches/laptop-hyperband"),
            ("tables for a paper", "searches/laptop-hyperband --format latex"),
            ("final runs side by side", "--compare runs/a runs/b"),
        ),
        groups={
            "Target": (
                ("DIR", "of a search, or of a final run"),
                ("--compare DIR ...", "final runs beside each other"),
            ),
            "Output": (
                ("--format FORM", "html, md (with its pictures) or latex"),
                ("--out FILE", "default: report.html in the directory"),
                ("--json, --quiet", "for scripts"),
            ),
        },
    ),
    "ablate": Guide(
        line="Is a change better, and does it stay so with scale?",
        examples=(
            ("what would it take?", "--lr 2e-3 --variant rope:model.positions=rope --dry-run"),
            ("each variant at its own best lr", "--lr 2e-3 --variant wd:weight_decay=0.2 --tune-lr 5"),
            ("by zero-shot scores, too", "--lr 2e-3 --variant bias:model.bias=true --tasks blimp"),
        ),
        groups={
            "Target": (
                ("--variant NAME:KEY=VALUE", "a change, or several with a comma between"),
                ("--target NAME", "a preset: the baseline at the highest level"),
                ("--lr X", "peak lr of the baseline at the highest level"),
                ("--set KEY=VALUE ...", "any field of the baseline"),
                ("--match WHAT", "none, parameters or flops: variants made as large"),
            ),
            "Budget": (
                ("--levels X ...", "shares of the target's compute; default: 1/16 1/4 1"),
                ("--seeds N", "runs of each variant at each level"),
                ("--budget-runs X", "most FLOPs in all, in target runs"),
            ),
            "Strategy": (("--tune-lr N", "lrs tried for each variant; 0: all train at --lr"),),
            "Output": (
                ("--out DIR", "runs.jsonl (it goes on from it), report.html"),
                ("--tasks NAME ...", "score every run: hellaswag, blimp ..."),
                ("--dry-run", "only what would be done, and for how much"),
                ("--json, --quiet", "for scripts"),
            ),
        },
    ),
}  # fmt: skip


def screen(command: str) -> str:
    """The guide of a command as text of at most WIDTH columns; empty: it has none, and its flags fill no screen."""
    if command not in GUIDES:
        return ""
    guide, module = GUIDES[command], f"python -m hpt.{command}"
    out = [f"usage: {' '.join(filter(None, (module, guide.positional, '[FLAGS]')))}", "", guide.line, ""]
    for what, flags in guide.examples:
        out.append(f"  # {what}")
        out += _wrapped(f"  {module} {flags}".rstrip(), "  ", "      ", " \\")
    for title, lines in guide.groups.items():
        out += ["", f"{title}:"]
        for flag, words in lines:
            first, *more = textwrap.wrap(_named(words), WIDTH - FLAG, break_on_hyphens=False)
            out += [f"  {flag:<{FLAG - 3}} {first}", *(" " * FLAG + line for line in more)]
    rest = "all flags: --help-all" + ("; of one strategy: --help-strategy NAME" if command == "search" else "")
    return "\n".join([*out, "", rest]) + "\n"


def _wrapped(line: str, first: str, rest: str, end: str) -> list[str]:
    lines = textwrap.wrap(line.strip(), WIDTH - len(end), initial_indent=first, subsequent_indent=rest,
                          break_long_words=False, break_on_hyphens=False)  # fmt: skip
    return [text + end for text in lines[:-1]] + lines[-1:]


def _named(words: str) -> str:
    """With the strategies there are."""
    if "{strategies}" not in words:
        return words
    from search.strategies import STRATEGIES  # other commands need none of it

    return words.replace("{strategies}", " ".join(STRATEGIES))


def settings_of(name: str) -> type:
    """A dataclass with the settings of one strategy, as --help-strategy NAME tells of them."""
    from search.strategies import STRATEGIES, load

    kind, attribute = load(name), name.replace("-", "_")
    if name not in STRATEGIES:
        raise UserError(f"{name} is code of your own and has no flags: its settings are where it is written.")
    return make_dataclass(f"Settings of {name}", [(attribute, kind, field(default_factory=kind))])
