"""Where a search begins or goes on: its configuration, from the command line or its directory, and the directory."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpt.console import cli
from hpt.console.help import settings_of
from hpt.console.settings import SearchConfig, changed, check_top_up, from_json
from hpt.console.trainers import OWN
from search.execution.store import SearchDir
from trainer.data import Prepared
from trainer.data.shards import digest as shards_digest
from trainer.errors import UserError


def read_config(argv: Sequence[str]) -> tuple[SearchConfig, SearchConfig | None]:
    """The configuration, and the one that the search was begun with where it continues one: the same but for its
    budget, which may be raised."""
    if (name := cli.value_of("--help-strategy", argv)) is not None:
        cli.parse(settings_of(name), ["--help-all"], "hpt.search")
    resume = cli.value_of("--resume", argv)
    if resume is None:
        return cli.parse(SearchConfig, argv, "hpt.search"), None
    document = SearchDir(Path(resume)).read_config("search")
    begun = from_json(document["search"], Path(resume))
    if ":" in begun.strategy and cli.value_of("--strategy", argv) != begun.strategy:
        raise UserError(
            f"{resume} was searched by {begun.strategy}, code of its own: name it again, --resume {resume} "
            f"--strategy {begun.strategy}, to have it run."
        )
    if begun.trainer != OWN and cli.value_of("--trainer", argv) != begun.trainer:
        raise UserError(
            f"{resume} is trained by {shlex.quote(begun.trainer)}, code of its own: name it again, --resume {resume} "
            f"--trainer {shlex.quote(begun.trainer)}, to have it run."
        )
    saved = replace(begun, **document.get("budgets", {}))
    again = cli.parse(SearchConfig, argv, "hpt.search", default=saved)
    if flags := changed(again, saved):
        raise UserError(
            f"{resume} was made with other values of {', '.join(flags)}: leave them out to go on "
            "with it, or start a new search with another --name."
        )
    check_top_up(again, saved)
    return again, begun


def claimed(config: SearchConfig) -> SearchDir:
    """The search's directory, locked before anything in it is looked at: two that begin at once never share one."""
    if config.resume is not None:
        directory = SearchDir(config.resume)
        directory.lock()
        return directory
    for path in free_directories(config):
        directory = SearchDir(path)
        try:
            directory.lock()
        except UserError:
            if config.name is not None:
                raise
            continue
        if not directory.begun:
            return directory
        directory.unlock()  # somebody began and ended there since we looked
    raise UserError(f"{config.out} has no name left for this search: choose another --name.")


def free_directories(config: SearchConfig) -> Iterator[Path]:
    """Directories that no search has used, the best first. One that was given up before its first trial is free."""
    if config.name is not None:
        path = config.out / config.name
        if SearchDir(path).begun:
            raise UserError(f"{path} holds a search already: go on with --resume {path}, or choose another --name.")
        yield path
        return
    target = Path(config.target).stem if config.target.endswith(".toml") else config.target
    if config.finetunes:
        target = f"finetune-{Path(config.target).name}"
    base = f"{target}-{config.strategy.rpartition(':')[2]}"
    names = [base, *(f"{base}-{i}" for i in range(2, 10_000))]
    yield from (path for path in (config.out / name for name in names) if not SearchDir(path).begun)


def fingerprint(data: Prepared | None) -> dict[str, Any]:
    """What a search's losses depend on beside the trials: content of the tokens, their split, the tokenizer. Of
    somebody else's trainer nothing is known."""
    if data is None:
        return {}
    spec, path = data.tokenizer, Path(data.tokenizer)
    if path.suffix == ".json":
        spec = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return {
        "train": shards_digest(data.train),
        "held out": shards_digest(data.val),
        "tokenizer": spec,
        "training tokens": data.train_tokens,
        "held-out tokens": data.val_tokens,
    }


def check_same_data(then: dict[str, Any], now: dict[str, Any], directory: Path) -> None:
    """UserError where a search would go on with other data than it was begun with."""
    if differing := [name for name in then if name in now and then[name] != now[name]]:
        named = "; ".join(f"{name} {then[name]} then, {now[name]} now" for name in differing)
        raise UserError(
            f"The corpus has changed since {directory} was begun ({named}), and losses on both would be mixed: "
            "restore it, or start a new search with another --name."
        )
