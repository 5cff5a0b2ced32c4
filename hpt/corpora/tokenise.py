"""`hpt.data tokenise`: texts to token shards, in a folder or an object store."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from hpt.console import cli
from hpt.corpora.bars import steps
from trainer.config import DataConfig
from trainer.data.corpus import Reading, corpus_files
from trainer.data.folders import cache_dir
from trainer.data.making import build
from trainer.data.processes import cores
from trainer.data.tokenizer import bpe_size, load_tokenizer
from trainer.errors import UserError
from trainer.storage import Store


@dataclass(frozen=True, kw_only=True)
class Tokenise(cli.Common):
    """Write a corpus as llm.c's token shards, about 64 MB of text each, with memory for two of them a process.
    Interrupted, it goes on when the same command is given again, to the same bytes."""

    corpus: tyro.conf.Positional[str]
    """As --corpus of hpt.search: texts, or .parquet with a column of lists of tokens (--text-field)."""
    out: str
    """Folder or address of a store (s3://bucket/path); then use it as --corpus."""
    tokenizer: str = "gpt2"
    """As --tokenizer of hpt.search; bpe:SIZE is trained on at most 64 MB of the corpus."""
    val: str = ""
    """A file whose documents are held out, instead of a twentieth of the corpus by their hash."""
    val_documents: int = 0
    """So many of the first of them; default: all."""
    val_tokens: int = 65536
    """Hold out at least so many tokens, where the corpus has them."""
    text_field: str = "text"
    name: str = "corpus"
    """Shards are NAME_train_000000.bin and NAME_val_000000.bin."""
    skip_damaged: bool = False
    """Count rows and files that cannot be read, and go on."""
    processes: int | None = None
    """Default: one a core."""


def run(config: Tokenise, console: Console) -> int:
    if config.processes is not None and config.processes < 1:
        raise UserError("--processes must be at least 1.")
    if bpe_size(config.tokenizer) is None:
        load_tokenizer(config.tokenizer)
    files = corpus_files(DataConfig(corpus=config.corpus))
    if any(path.suffix == ".bin" for path in files):
        raise UserError(f"{config.corpus!r} holds token shards: there is nothing to tokenise.")
    data = DataConfig(
        corpus=config.corpus, tokenizer=config.tokenizer, text_field=config.text_field, val_tokens=config.val_tokens,
        val=config.val, val_documents=config.val_documents,
    )  # fmt: skip
    place = Store(config.out)
    staging = place.local or cache_dir() / "staging" / hashlib.blake2b(config.out.encode(), digest_size=8).hexdigest()
    began = time.perf_counter()
    claim(place, files, data, config)
    with steps(console) as progress:
        made = build(
            data, files, Reading(config.text_field, config.skip_damaged), place, Path(staging), name=config.name,
            processes=config.processes or cores(), say=lambda text: console.print(text), progress=progress,
        )  # fmt: skip
    taken = time.perf_counter() - began
    console.print(f"{made['train_tokens']:,} tokens to train on, {made['val_tokens']:,} held out, in {taken:,.0f} s")
    if made["damaged"]:
        console.print(f"{made['damaged']:,} damaged rows or files were passed over")
    console.print(f"next     python -m hpt.search --corpus {config.out} --tokenizer {config.tokenizer}")
    config.answer(
        {**made, "out": config.out, "seconds": taken}, f"{made['train_tokens']:,} training tokens in {config.out}"
    )
    return 0


def claim(place: Store, files: list[Path], data: DataConfig, config: Tokenise) -> None:
    """Refuses a place that holds shards of something else."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    shaping = repr((stats, data, config.name, config.skip_damaged)).encode()
    key = hashlib.blake2b(shaping, digest_size=12).hexdigest().encode()
    held = place.read("_hpt/key")
    if held is None:
        if place.read("prepared.json") is not None or (
            place.local and place.local.is_dir() and any(place.local.iterdir())
        ):
            raise UserError(f"{config.out} is not empty and was not made by this command: choose another --out.")
        place.write("_hpt/key", key)
    elif held != key:
        raise UserError(
            f"{config.out} holds shards of other files or with other settings: choose another --out, or delete it."
        )
