"""Where shards are put and read from: a folder, or an address of an object store (s3://bucket/path, gs://...)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock

from trainer.addresses import masked, scrubbed
from trainer.data.folders import cache_dir
from trainer.errors import UserError
from trainer.files import write_atomic


@dataclass(frozen=True)
class Place:
    """Files by name. A file is there whole or not at all."""

    address: str
    """As pyarrow writes it, options included: s3://bucket/path?region=eu-west-1."""

    @property
    def shown(self) -> str:
        """For people: without options and secrets."""
        return masked(self.address.split("?")[0])

    @property
    def local(self) -> Path | None:
        return Path(self.address).expanduser() if "://" not in self.address else None

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        from pyarrow import fs

        try:
            system, path = fs.FileSystem.from_uri(self.address)
            system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        except Exception as error:  # pyarrow's errors of the many stores share no class
            raise self._refused(error) from None
        return system, path.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:  # the connection stays here
        return {"address": self.address}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _refused(self, error: Exception) -> UserError:
        reason = scrubbed((str(error).strip() or type(error).__name__).splitlines()[0], self.address)[:200]
        return UserError(
            f"The store {self.shown} cannot be used ({reason}): check the address, your credentials and the network."
        )

    def read(self, name: str) -> bytes | None:
        """None: there is no such file."""
        if self.local is not None:
            file = self.local / name
            return file.read_bytes() if file.is_file() else None
        system, path = self._remote
        try:
            with system.open_input_file(f"{path}/{name}") as stream:
                return stream.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(error) from None

    def write(self, name: str, content: bytes) -> None:
        if self.local is not None:
            return write_atomic(self.local / name, content)
        system, path = self._remote
        try:
            with system.open_output_stream(f"{path}/{name}") as stream:  # an object appears when it is complete
                stream.write(content)
        except OSError as error:
            raise self._refused(error) from None

    def put(self, file: Path, name: str) -> None:
        """Move a file here."""
        if self.local is not None:
            if file != self.local / name:
                os.replace(file, self.local / name)
            return
        system, path = self._remote
        try:
            with file.open("rb") as source, system.open_output_stream(f"{path}/{name}") as stream:
                shutil.copyfileobj(source, stream, 2**22)
        except OSError as error:
            raise self._refused(error) from None
        file.unlink()

    def fetch(self, name: str, target: Path) -> None:
        system, path = self._remote
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with system.open_input_stream(f"{path}/{name}") as stream, temporary.open("wb") as file:
                shutil.copyfileobj(stream, file, 2**22)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._refused(error) from None
        os.replace(temporary, target)

    def listed(self) -> dict[str, list[Any]]:
        """Names of the files right here, with size and a mark of their content."""
        from pyarrow import fs

        system, path = self._remote
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {f.base_name: [f.size, str(f.mtime_ns)] for f in found if f.type == fs.FileType.File}


def mirror(address: str, kinds: tuple[str, ...]) -> Path:
    """A folder of the cache with the files at an address, each fetched unless it is there with the same name, size and
    checksum (of shards that hpt made; else time of change)."""
    place = Place(address)
    listed = place.listed()
    wanted = {
        n: mark
        for n, mark in listed.items()
        if n.endswith((*kinds, ".sum")) or n in ("prepared.json", "tokenizer.json")
    }
    if not any(name.endswith(kinds) for name in wanted):
        raise UserError(f"{masked(address.split('?')[0])} holds no file that hpt reads: {', '.join(kinds)}.")
    prepared = json.loads(place.read("prepared.json") or b"{}") if "prepared.json" in listed else {}
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
            place.fetch(name, target)
            if name in checksums and checksum(target) != checksums[name]:
                target.unlink()
                raise UserError(f"{place.shown}/{name} arrived damaged: give the command again.")
            held[name] = mark
            write_atomic(record, json.dumps(held).encode())
        for gone in [p for p in folder.iterdir() if p.suffix == ".bin" and p.name not in wanted]:
            gone.unlink()
    return folder


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
