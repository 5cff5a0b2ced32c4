"""The files of evaluation tasks: found, fetched, read."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import lzma
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import zstandard

from trainer.data.corpus import open_text
from trainer.data.prepare import cache_dir
from trainer.errors import UserError
from trainer.files import disk_error

TIMEOUT = 30.0  # seconds without a byte
BLOCK = 2**16
Rows = list[tuple[str, dict[str, Any]]]
"""Where each row stands, for messages, and the row."""


def cached(task: str) -> Path | None:
    """The file or folder of a task in the cache, such as evals/hellaswag.jsonl; None where there is none."""
    folder = cache_dir() / "evals"
    found = sorted(folder.glob(f"{task}.*")) + [folder / task]
    return next((p for p in found if p.exists() and not p.name.endswith(".part")), None)


def fetch(
    task: str, url: str, sha256: str, progress: Callable[[int, int], None], say: Callable[[str], None] = print
) -> Path:
    """Fetch a task's file into the cache, whole or not at all; `progress` gets bytes done and bytes of all.

    The length that the server promises is checked, and the checksum where one is recorded (`sha256` not empty); where
    none is, `say` is told so.
    """
    target = cache_dir() / "evals" / (task + "".join(Path(url).suffixes[-1:]))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    digest, done = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(partial, "wb") as file:
            promised = int(response.headers.get("Content-Length") or 0)
            while block := response.read(BLOCK):
                file.write(block)
                digest.update(block)
                done += len(block)
                progress(done, promised)
            file.flush()
            os.fsync(file.fileno())
        if promised and done != promised:
            raise UserError(f"{url} broke off after {done:,} of {promised:,} bytes: try again.")
        if sha256 and digest.hexdigest() != sha256:
            raise UserError(f"{url} is not the file hpt knows (sha256 {digest.hexdigest()}): give one with --data.")
        os.replace(partial, target)
        if not sha256:
            say(f"{task}: fetched, and not checked, for no SHA-256 of it is recorded. It is {digest.hexdigest()}.")
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        if isinstance(error, OSError) and isinstance(full := disk_error(error, target), UserError):
            raise full from None
        raise UserError(
            f"{url} cannot be fetched ({error}): fetch it elsewhere and give it with --data {task}=PATH."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def rows(path: Path, limit: int | None = None) -> Rows:
    """The JSON objects of a .jsonl(.gz/.xz/.zst), of all of them in a folder or .zip, in order of name.

    With `limit`, that many spread evenly: files are often sorted by kind.
    """
    result: Rows = []
    try:
        for name, lines in _texts(path):
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    result.append((f"{name}, line {number}", _parse(line, f"{name}, line {number}")))
    except (OSError, EOFError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
            zstandard.ZstdError) as error:  # fmt: skip
        raise UserError(f"{path} cannot be read ({error}): fetch it again.") from None
    if not result:
        raise UserError(f"{path} holds no rows: give a .jsonl file, or a folder or .zip of them.")
    return [result[i] for i in spread(len(result), limit)]


def spread(count: int, limit: int | None) -> Sequence[int]:
    """At most `limit` of range(count), evenly: texts and tasks are often sorted by kind."""
    return range(count) if limit is None or limit >= count else [i * count // limit for i in range(limit)]


def _texts(path: Path) -> Iterator[tuple[str, io.TextIOBase]]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".jsonl") and not name.startswith("__MACOSX"):
                    with archive.open(name) as member:
                        yield f"{path}:{name}", io.TextIOWrapper(member, encoding="utf-8")
        return
    for file in sorted(p for p in path.iterdir() if ".jsonl" in p.name) if path.is_dir() else [path]:
        with open_text(file) as text:
            yield str(file), text


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f"{where} is not a JSON object: the file is damaged or of another kind.")
    return row
