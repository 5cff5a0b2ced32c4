"""Starts a trial's command and sees that nothing of it is left: run as a file, in a process of its own, by the standard
library alone.

guard.py STATUS_FD TOKEN GRACE DIRECTORY WORD...

It leaves whoever started it at once (so that nobody's clean-up of children takes it along), and waits for the command
to end, for a line on stdin, or for stdin to be closed: that is how it learns that its worker is gone, however that
ended. Then it ends every process that has HPT_TOKEN=TOKEN in its environment or descends from the command, in whatever
session or group: SIGTERM first, SIGKILL after GRACE seconds. What it has to say goes to STATUS_FD: `exit CODE`, or
`none REASON`.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

LOOK_SECONDS = 0.05


def main() -> None:
    status, token, grace, folder = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when its worker is gone, and not before
    try:
        child = subprocess.Popen(
            sys.argv[5:], cwd=folder, stdin=subprocess.DEVNULL, env={**os.environ, "HPT_TOKEN": token},
            start_new_session=True, preexec_fn=_default_signals,
        )  # fmt: skip
    except OSError as error:
        os.write(status, f"none {error.strerror}: {error.filename}\n".encode())
        os._exit(0)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # the output is the command's alone: it ends when its last process does
    os.dup2(null, 2)
    while child.poll() is None and not select.select([0], [], [], LOOK_SECONDS)[0]:
        pass
    end(child, token, grace)
    with contextlib.suppress(OSError):
        os.write(status, f"exit {child.returncode}\n".encode())
    os._exit(0)


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def end(child: subprocess.Popen[bytes], token: str, grace: float) -> None:
    """Every process of the command."""
    began, told = time.monotonic(), set[int]()
    while left := members(child.pid, token):
        late = time.monotonic() - began > grace
        if late and time.monotonic() - began > grace + 10:
            return  # a process that the kernel cannot end
        for pid in left:
            if late or pid not in told:
                told.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        child.poll()
        time.sleep(0.01 if time.monotonic() - began < 0.2 else LOOK_SECONDS)
    child.wait()


def members(root: int, token: str) -> set[int]:
    """Live processes of the command: with its token, or descended from it."""
    parents, marked = dict[int, int](), {root}
    if os.path.isdir("/proc/self"):
        wanted = f"HPT_TOKEN={token}".encode()
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    with open(f"/proc/{name}/stat", "rb") as file:
                        fields = file.read().rpartition(b")")[2].split()
                    if fields[0] in (b"Z", b"X"):
                        continue
                    parents[int(name)] = int(fields[1])
                    with open(f"/proc/{name}/environ", "rb") as file:
                        if wanted in file.read().split(b"\0"):
                            marked.add(int(name))
    else:
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True).stdout
        for line in listed.splitlines():
            pid, parent, state = line.split()[:3]
            if not state.startswith("Z"):
                parents[int(pid)] = int(parent)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in marked} - marked
        marked |= more
        grown = bool(more)
    return marked & set(parents) - {os.getpid()}


if __name__ == "__main__":
    main()
