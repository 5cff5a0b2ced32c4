"""Shards of an object store (s3://bucket/path, gs://...) in a folder of the cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from filelock import FileLock

from trainer.data.folders import cache_dir
from trainer.errors import UserError
from trainer.files import write_atomic
from trainer.storage import Store


def mirror(address: str, kinds: tuple[str, ...]) -> Path:
    """A folder of the cache with the files at an address, each fetched unless it is there with the same name, size and
    checksum (of shards that hpt made; else time of change)."""
    store = Store(address)
    listed = store.listed()
    wanted = {
        n: mark
        for n, mark in listed.items()
        if n.endswith((*kinds, ".sum")) or n in ("prepared.json", "tokenizer.json")
    }
    if not any(name.endswith(kinds) for name in wanted):
        raise UserError(f"{store.shown} holds no file that hpt reads: {', '.join(kinds)}.")
    prepared = json.loads(store.read("prepared.json") or b"{}") if "prepared.json" in listed else {}
    checksums = {entry["name"]: entry["checksum"] for entry in prepared.get("shards", ())}
    folder = cache_dir() / "stores" / hashlib.blake2b(address.split("?")[0].encode(), digest_size=8).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        record = folder / ".record.json"
        held = json.loads(record.read_text()) if record.exists() else {}
        for name, (size, changed) in wanted.items():
            mark, target = [size, checksums.get(name, changed)], folder / name
            if held.get(name) == mark and target.is_file() and target.stat().st_size == size:
                continue
            store.fetch(name, target)
            if name in checksums and checksum(target) != checksums[name]:
                target.unlink()
                raise UserError(f"{store.shown}/{name} arrived damaged: give the command again.")
            held[name] = mark
            write_atomic(record, json.dumps(held).encode())
        for gone in [p for p in folder.iterdir() if p.suffix == ".bin" and p.name not in wanted]:
            gone.unlink()
    return folder


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
