"""Where the files of a run or of a corpus are: a local folder, or an address of an object store (s3://bucket/path,
gs://...)."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trainer.addresses import masked, scrubbed
from trainer.errors import UserError
from trainer.files import write_atomic


@dataclass(frozen=True)
class Store:
    """Small interface on purpose: whole files by name. A file is there whole or not at all."""

    address: str
    """For an object store as pyarrow writes it, options included: s3://bucket/path?region=eu-west-1, or
    ...?endpoint_override=http://127.0.0.1:5000."""

    @property
    def local(self) -> Path | None:
        """The folder, where it is one."""
        return Path(self.address).expanduser() if "://" not in self.address else None

    @cached_property
    def _remote(self) -> tuple[Any, str]:
        from pyarrow import fs

        try:
            system, path = fs.FileSystem.from_uri(self.address)
            system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        except Exception as error:  # pyarrow's errors of the many stores share no class
            raise self._unreachable(error) from None
        return system, path.rstrip("/")

    def __getstate__(self) -> dict[str, Any]:  # the connection stays here
        return {"address": self.address}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def _unreachable(self, error: Exception) -> UserError:
        reason = scrubbed(str(error).strip() or type(error).__name__, self.address).splitlines()[0][:200]
        return UserError(
            f"The store {self.shown} cannot be used ({reason}): check the address, your credentials and the network."
        )

    @property
    def shown(self) -> str:
        """The address for people and files: without its options and without a password."""
        return masked(self.address).split("?")[0] if "://" in self.address else self.address

    def join(self, name: str) -> str:
        """The address of a file, for people."""
        return f"{self.shown.rstrip('/')}/{name}"

    def write(self, name: str, content: bytes) -> None:
        if self.local is not None:
            return write_atomic(self.local / name, content)
        system, path = self._remote
        try:
            with system.open_output_stream(f"{path}/{name}") as stream:  # an object appears when it is complete
                stream.write(content)
        except OSError as error:
            raise self._unreachable(error) from None

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
            raise self._unreachable(error) from None

    def names(self, folder: str) -> list[str]:
        """Files in `folder`, sorted, each with it in front."""
        if self.local is not None:
            return sorted(f"{folder}/{p.name}" for p in (self.local / folder).glob("[!.]*") if p.is_file())
        from pyarrow import fs

        system, path = self._remote
        found = system.get_file_info(fs.FileSelector(f"{path}/{folder}", allow_not_found=True))
        return sorted(f"{folder}/{f.base_name}" for f in found if f.type == fs.FileType.File)

    def delete(self, name: str) -> None:
        """Gone already is fine."""
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
            return
        system, path = self._remote
        try:
            system.delete_file(f"{path}/{name}")
        except FileNotFoundError:
            pass

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
            raise self._unreachable(error) from None
        file.unlink()

    def fetch(self, name: str, target: Path) -> None:
        system, path = self._remote
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with system.open_input_stream(f"{path}/{name}") as stream, temporary.open("wb") as file:
                shutil.copyfileobj(stream, file, 2**22)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise self._unreachable(error) from None
        os.replace(temporary, target)

    def listed(self) -> dict[str, list[Any]]:
        """Names of the files right here, with size and a mark of their content."""
        from pyarrow import fs

        system, path = self._remote
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {f.base_name: [f.size, str(f.mtime_ns)] for f in found if f.type == fs.FileType.File}
