"""`python -m hpt.data`: fetch public corpora (get), look into any (inspect)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from hpt.console import cli
from hpt.reports.numbers import short
from trainer.config import DataConfig
from trainer.data import prepare
from trainer.data.fetch import CORPORA, corpus_folder, fetch, wanted
from trainer.data.shards import read_shard
from trainer.data.tokenizer import load_tokenizer
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Get(cli.Common):
    """Fetch a public corpus, or as much of it as a run needs. Give it again to go on after an interruption."""

    name: tyro.conf.Positional[str]
    """fineweb10b, fineweb-edu10b or tinystories."""
    tokens: float | None = None
    """Training tokens that the run needs; default: the whole corpus."""
    shards: int | None = None
    """Training shards, instead of --tokens."""
    out: Path | None = None
    """Where to; default: the cache, where `--corpus NAME` finds it."""


@dataclass(frozen=True, kw_only=True)
class Inspect(cli.Common):
    """Prepare a corpus as a search would, and say what is in it."""

    corpus: tyro.conf.Positional[str] = "python"
    """As --corpus of hpt.search."""
    tokenizer: str | None = None
    """As --tokenizer; default: a public corpus's own, else bpe:4096."""


def main(argv: Sequence[str]) -> int:
    commands = Annotated[Get, tyro.conf.subcommand("get")] | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    chosen = cli.parse(cast(Any, commands), argv, "hpt.data")
    console = chosen.console()
    return get(chosen, console) if isinstance(chosen, Get) else inspect(chosen, console)


def get(config: Get, console: Console) -> int:
    if config.name not in CORPORA:
        near = difflib.get_close_matches(config.name, CORPORA, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(CORPORA)}."
        raise UserError(f"There is no corpus called {config.name!r}: {hint}")
    corpus, files = CORPORA[config.name], wanted(config.name, config.tokens, config.shards)
    folder = config.out or corpus_folder(config.name)
    console.print(f"{config.name}: {corpus.line}; {len(files)} files to {folder}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks = dict[str, TaskID]()

        def progress(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(f"{file} ({files.index(file) + 1} of {len(files)})", total=size)
            bars.update(tasks[file], completed=done)

        fetch(config.name, files, folder, console.print, progress)
    where = config.name if config.out is None else config.out
    console.print(f"complete; use it with --corpus {where} --tokenizer {corpus.tokenizer}")
    config.answer({"corpus": where, "tokenizer": corpus.tokenizer, "folder": folder, "files": files}, str(where))
    return 0


def inspect(config: Inspect, console: Console) -> int:
    known = CORPORA[config.corpus].tokenizer if config.corpus in CORPORA else "bpe:4096"
    data = DataConfig(corpus=config.corpus, tokenizer=config.tokenizer or known, val_tokens=1024)
    with console.status("preparing data") as status:
        prepared = prepare(data, say=status.update)
    encoding, found = load_tokenizer(prepared.tokenizer), dict[str, object]()
    tokens = read_shard(prepared.train[0])
    ends = (tokens[: 2**22] == prepared.end_of_text).mean()
    found["training tokens"], found["held-out tokens"] = prepared.train_tokens, prepared.val_tokens
    found["shards"] = len(prepared.train) + len(prepared.val)
    found["vocabulary"] = prepared.vocabulary
    found["bytes a token"] = round(prepared.bytes_per_token, 3)
    found["tokens a document"] = round(1 / ends, 1) if ends else None
    found["would feed"] = (
        f"{short(prepared.train_tokens)} tokens: 20 for each of {short(prepared.train_tokens / 20)} parameters"
    )
    beginning = encoding.decode([t for t in tokens[:80].tolist() if t != prepared.end_of_text])
    for name, value in found.items():
        console.print(f"{name:<18} {value:,}" if isinstance(value, int) else f"{name:<18} {value}", markup=False)
    console.print(f"{'begins':<18} {beginning[:200]!r}", markup=False)
    config.answer({**found, "begins": beginning}, f"{prepared.train_tokens:,} training tokens")
    return 0


if __name__ == "__main__":
    cli.run(main)
