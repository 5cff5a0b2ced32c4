"""Public corpora by name, fetched from the Hugging Face hub: whole files, checked, resumed where a fetch broke off."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.folders import cache_dir
from trainer.data.shards import read_shard
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Where a corpus is, in files that are useful one by one."""

    repository: str
    """Dataset repository on the hub."""
    val: tuple[str, ...]
    train: str
    """File name with {} for a number, or one file."""
    shards: int = 1
    first: int = 1
    tokens_per_shard: int = 100_000_000
    """0: files of text, of which all are fetched."""
    tokenizer: str = "gpt2"
    line: str = ""


CORPORA = {
    "fineweb10b": Corpus(
        repository="kjj0/fineweb10B-gpt2", val=("fineweb_val_000000.bin",), train="fineweb_train_{:06d}.bin",
        shards=103, line="10B tokens of FineWeb, GPT-2's tokenizer, llm.c's shards of 100M",
    ),
    "fineweb-edu10b": Corpus(
        repository="kjj0/finewebedu10B-gpt2", val=("finewebedu_val_000000.bin",), train="finewebedu_train_{:06d}.bin",
        shards=99, line="10B tokens of FineWeb-Edu, likewise",
    ),
    "tinystories": Corpus(
        repository="roneneldan/TinyStories", val=("TinyStoriesV2-GPT4-valid.txt",),
        train="TinyStoriesV2-GPT4-train.txt", tokens_per_shard=0, tokenizer="bpe:SIZE",
        line="2.7M short stories (arXiv 2305.07759), text",
    ),
}  # fmt: skip


def corpus_folder(name: str) -> Path:
    return cache_dir() / "corpora" / name


def wanted(name: str, tokens: float | None, shards: int | None) -> list[str]:
    """Names of the files that a run of `tokens` needs (the whole corpus: neither given), validation first."""
    corpus = CORPORA[name]
    if not corpus.tokens_per_shard:
        return [*corpus.val, corpus.train]
    count = corpus.shards if shards is None else shards
    if tokens is not None:
        count = -int(-tokens // corpus.tokens_per_shard)
    if not 0 < count <= corpus.shards:
        raise UserError(
            f"{name} has {corpus.shards} training shards of {corpus.tokens_per_shard:,} tokens, and {count} are asked "
            "for: lower --tokens or --shards."
        )
    return [*corpus.val, *(corpus.train.format(i) for i in range(corpus.first, corpus.first + count))]


def fetch(name: str, files: list[str], folder: Path, say: Callable[[str], None]) -> None:
    """Fetch what is missing or damaged. HF_ENDPOINT names another server than the hub's."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    corpus, endpoint = CORPORA[name], os.environ.get("HF_ENDPOINT")
    for i, file in enumerate(files):
        path = folder / file
        if path.is_file() and not damage(path):
            continue
        if path.is_file():
            say(f"{damage(path)} It is fetched again.")
            path.unlink()
        say(f"{file} ({i + 1} of {len(files)})")
        source = {"repo_id": corpus.repository, "filename": file, "repo_type": "dataset", "endpoint": endpoint}
        try:
            hf_hub_download(**source, local_dir=folder)
            etag = get_hf_file_metadata(hf_hub_url(**source)).etag or ""
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                raise UserError(f"{corpus.repository} has no file {file} any more.") from None
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
            raise UserError(
                f"{file} of {name} cannot be fetched ({reason}): check the network and give the same command again, "
                "it goes on where it stopped; or set HF_ENDPOINT to a mirror."
            ) from None
        if len(etag) == 64 and etag != _sha256(path):  # large files carry their SHA-256
            path.unlink()
            raise UserError(f"{file} arrived damaged (its checksum is not the published one): fetch it again.")
        if reason := damage(path):
            path.unlink()
            raise UserError(f"{reason} The hub's own copy seems to be so.")


def damage(path: Path) -> str:
    """What is wrong with a token shard; empty for a good one and for other files."""
    if path.suffix != ".bin":
        return ""
    try:
        read_shard(path)
        return ""
    except UserError as error:
        return str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
