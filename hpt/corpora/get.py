"""`hpt.data get`: public corpora, fetched."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

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
from trainer.data.corpus import SUFFIXES
from trainer.data.fetch import fetch
from trainer.data.folders import corpus_folder
from trainer.data.sources import CORPORA, Corpus, from_address, wanted
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Get(cli.Common):
    """Fetch a public corpus, or as much of it as a run needs. Give it again to go on after an interruption."""

    name: tyro.conf.Positional[str] = ""
    """fineweb10b, fineweb-edu10b (tokens), openwebtext, pile, fineweb, fineweb-edu, c4, tinystories (text),
    cnn_dailymail, squad, squad_v2, glue (fine-tuning), or hf://datasets/OWNER/NAME[@REVISION][/FOLDER]. None: what is
    known of each."""
    tokens: float | None = None
    """Training tokens that the run needs; default: the whole corpus."""
    documents: int | None = None
    """Documents, instead of --tokens: as many whole files as hold them."""
    shards: int | None = None
    """Training files, instead of --tokens."""
    out: Path | None = None
    """Where to; default: the cache, where `--corpus NAME` finds it."""


def run(config: Get, console: Console) -> int:
    if not config.name:
        return known(config, console)
    name, corpus = find(config.name)
    files = wanted(corpus, name, tokens=config.tokens, documents=config.documents, shards=config.shards)
    folder = config.out or corpus_folder(name)
    console.print(f"{name}: {corpus.line}; {len(files)} files to {folder}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks = dict[str, TaskID]()

        def progress(file: str, done: int, size: int) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(f"{file} ({files.index(file) + 1} of {len(files)})", total=size)
            bars.update(tasks[file], completed=done)

        fetch(name, corpus, files, folder, console.print, progress)
    where = config.name if config.out is None and config.name in CORPORA else folder
    field = "" if corpus.text_field == "text" else f" --set data.text_field={corpus.text_field}"
    console.print(f"complete; use it with --corpus {where} --tokenizer {corpus.tokenizer}{field}")
    config.answer({"corpus": where, "tokenizer": corpus.tokenizer, "folder": folder, "files": files}, str(where))
    return 0


def find(name: str) -> tuple[str, Corpus]:
    """By name or by address."""
    if name.startswith("hf://"):
        return from_address(name, (*SUFFIXES, ".bin"))
    if name not in CORPORA:
        near = difflib.get_close_matches(name, CORPORA, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(CORPORA)}, or hf://datasets/OWNER/NAME."
        raise UserError(f"There is no corpus called {name!r}: {hint}")
    return name, CORPORA[name]


def known(config: Get, console: Console) -> int:
    for name, corpus in CORPORA.items():
        console.print(f"{name:<15} {corpus.gigabytes:>6g} GB  {corpus.licence:<16}  {corpus.line}", markup=False)
    config.answer({name: vars(corpus) for name, corpus in CORPORA.items()}, " ".join(CORPORA))
    return 0
