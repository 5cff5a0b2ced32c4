"""Imported by every Python process of a search under test: a full disk for one kind of file, a clock that jumps.

HPT_FULL: part of the file's name. HPT_FULL_AFTER: how many such files (or lines) still find room.
HPT_CLOCK: seconds after a process's start at which its wall clock goes forward by a day; after as many more,
back by two.
"""

import errno
import os
import time

_fsync, _wanted, _left = os.fsync, os.environ.get("HPT_FULL", ""), [int(os.environ.get("HPT_FULL_AFTER", "0"))]


def _full(file) -> None:
    number = file if isinstance(file, int) else file.fileno()
    if _wanted and _wanted in os.path.basename(os.readlink(f"/proc/self/fd/{number}")):
        _left[0] -= 1
        if _left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
    _fsync(number)


os.fsync = _full

if _jump := float(os.environ.get("HPT_CLOCK", "0")):
    _time, _began = time.time, time.monotonic()

    def _jumping() -> float:
        past = (time.monotonic() - _began) / _jump
        return _time() + 86400 * ((past > 1) - 2 * (past > 2))

    time.time = _jumping
