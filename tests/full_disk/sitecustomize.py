"""Imported by every Python process of a search under test: a disk that is full for one kind of file.

HPT_FULL: part of the file's name. HPT_FULL_AFTER: how many such files (or lines) still find room.
"""

import errno
import os

_fsync, _wanted, _left = os.fsync, os.environ.get("HPT_FULL", ""), [int(os.environ.get("HPT_FULL_AFTER", "0"))]


def _full(file) -> None:
    number = file if isinstance(file, int) else file.fileno()
    if _wanted and _wanted in os.path.basename(os.readlink(f"/proc/self/fd/{number}")):
        _left[0] -= 1
        if _left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
    _fsync(number)


os.fsync = _full
