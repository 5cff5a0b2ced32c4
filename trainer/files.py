"""Files that are whole or not there, and one sentence where a disk refuses."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

from trainer.errors import UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Write so that `path` holds the old content or the whole new one, also after a power cut."""
    if not path.name or "\0" in str(path):
        raise UserError(f"{str(path)!r} is no name of a file: give another.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def in_a_jobs_folder(path: Path) -> bool:
    """Whether it is below the working directory of a submitted Ray job, which is temporary."""
    return "runtime_resources" in path.absolute().parts


def disk_error(error: OSError, path: Path) -> Exception:
    """A sentence where the disk is full or read-only; the error itself otherwise."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(
            f"The disk that holds {path.parent} is full: free some space, then go on with --resume "
            "(hpt.data: with the same command)."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError(f"{path.parent} cannot be written: choose another directory or change its permissions.")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return UserError(f"{path} cannot be written ({error.strerror}): choose another place.")
    return error


def read_json(path: Path, missing: str = "") -> dict[str, Any]:
    """A file that holds a JSON object. UserError where it is not there (`missing` says what then), cannot be read or
    is damaged: the file is always named."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(missing or f"There is no {path}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another, or change its permissions.") from None
    return parse_json(content, path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a .jsonl file, one a line; UserError names the line that is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    return [parse_json(line, f"{path}, line {number}") for number, line in enumerate(content.splitlines(), start=1)]


def parse_json(content: bytes | str, source: object) -> dict[str, Any]:
    """The same of what was read already; `source` names it."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # not text, not JSON, or nested without end
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{source} is damaged ({reason}): restore or delete it.") from None
    if not isinstance(found, dict):
        raise UserError(f"{source} is damaged (it is no JSON object): restore or delete it.")
    return found
