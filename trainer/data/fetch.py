"""Files from the Hugging Face hub: whole, checked, resumed where a fetch broke off."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainer.data.shards import read_shard
from trainer.data.sources import Corpus
from trainer.errors import UserError

TRIES = 4  # connections that bring nothing before a fetch gives up
PAUSE = 0.5  # seconds, doubled from one to the next
Progress = Callable[[str, int, int], None]
"""Told a file's name, the bytes of it that are here, and all its bytes."""


def fetch(
    name: str, corpus: Corpus, files: list[str], folder: Path, say: Callable[[str], None], progress: Progress
) -> None:
    """Fetch what is missing or damaged; a file has its name only once it is whole and right.

    HF_ENDPOINT names another server than the hub's. UserError when a file cannot be had or is not what was published.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for file in files:
            path = folder / file
            if path.is_file() and (reason := damage(path)):
                say(f"{reason} It is fetched again.")
                path.unlink()
            if not path.is_file():
                _fetch_one(name, corpus, file, path, progress)


def _fetch_one(name: str, corpus: Corpus, file: str, path: Path, progress: Progress) -> None:
    """The part that has arrived lies beside `path` as PATH.part, and the next fetch goes on from its end."""
    try:
        published = _metadata(corpus, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        _receive(published.location, part, published.size, lambda done: progress(file, done, published.size))
    except UserError:
        raise
    except Exception as error:  # whatever the network does; the hub's client has its own family of errors
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:150]
        raise UserError(
            f"{path.name} of {name} cannot be fetched ({reason}): check the network and give the same command again, "
            "it goes on where it stopped; or set HF_ENDPOINT to a mirror."
        ) from None
    etag = published.etag or ""
    wrong = ""
    if len(etag) == 64 and etag != _sha256(part):  # large files carry their SHA-256
        wrong = f"{path.name} arrived damaged (its checksum is not the published one): fetch it again."
    elif path.suffix == ".bin" and (reason := damage(part)):
        wrong = f"What the server has as {path.name} is no whole token shard ({reason})"
    if wrong:
        part.unlink()
        raise UserError(wrong)
    os.replace(part, path)


def _metadata(corpus: Corpus, file: str) -> Any:
    """The hub's word on a file: location, size in bytes, etag."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

    endpoint = os.environ.get("HF_ENDPOINT")
    url = hf_hub_url(corpus.repository, file, repo_type="dataset", revision=corpus.revision, endpoint=endpoint)
    try:
        found = get_hf_file_metadata(url)
    except (EntryNotFoundError, RepositoryNotFoundError):
        raise UserError(f"{corpus.repository} has no file {file} any more.") from None
    if found.commit_hash is None or not found.size:
        raise ValueError(f"{url} is not answered by a hub")
    return found


def _receive(url: str, part: Path, size: int, progress: Callable[[int], None]) -> None:
    """Append to `part` until it has `size` bytes, asking again where a connection ends early."""
    idle = 0
    if part.is_file() and part.stat().st_size > size:
        part.unlink()
    while (have := part.stat().st_size if part.is_file() else 0) < size:
        try:
            request = urllib.request.Request(url, headers={"Range": f"bytes={have}-", "User-Agent": "hpt"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                goes_on = answer.status == 206  # a server that knows no ranges sends all of it again
                with part.open("ab" if goes_on else "wb") as file:
                    while chunk := answer.read(2**20):
                        file.write(chunk)
                        progress(file.tell())
            ended = ConnectionError(f"the connection ended after {part.stat().st_size:,} of {size:,} bytes")
        except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as error:
            ended = error
        gained = part.is_file() and part.stat().st_size > have
        idle = 0 if gained else idle + 1
        if idle == TRIES:
            raise ended
        if idle:
            time.sleep(PAUSE * 2**idle)
    progress(size)


def damage(path: Path) -> str:
    """What is wrong with a token shard; empty for a good one and for files of text."""
    if path.suffix != ".bin" and not path.name.endswith(".bin.part"):
        return ""
    try:
        read_shard(path)
        return ""
    except UserError as error:
        return str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
