"""Files that are whole or not there, and one sentence where a disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from trainer.errors import UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Write so that `path` holds the old content or the whole new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> Exception:
    """A sentence where the disk is full or read-only; the error itself otherwise."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"The disk that holds {path.parent} is full: free some space, then go on with --resume.")
    if error.errno in (errno.EROFS, errno.EACCES):
        return UserError(f"{path.parent} cannot be written: choose another directory or change its permissions.")
    return error
