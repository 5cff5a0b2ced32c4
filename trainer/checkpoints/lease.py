"""Who trains into an object store: it has no locks, so a file there says who, and until when unless it is renewed."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.errors import UserError
from trainer.files import parse_json
from trainer.storage import Store

NAME = "lease.json"
SECONDS = 180.0  # without a renewal, after which it is free: its holder was killed
SETTLE = 1.0  # two that begin at once: the one whose file stands after so long has it


@contextmanager
def lease(store: Store, seconds: float = SECONDS, settle: float = SETTLE) -> Iterator[None]:
    """Hold the store for the life of a block, renewed in the background. UserError while another holds it.

    Clocks of the two may differ by less than `seconds`.
    """
    mine = uuid.uuid4().hex
    if (until := _held(store, mine)) > time.time():
        raise UserError(
            f"Another process trains in {store.shown}: wait for it, or choose another --out. If it was killed, the "
            f"place is free in {until - time.time():.0f} s."
        )
    _write(store, mine, seconds)
    time.sleep(settle)
    if _held(store, mine) > time.time():
        raise UserError(f"Another process began to train in {store.shown} just now: choose another --out.")
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(store, mine, seconds, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        with contextlib.suppress(UserError, OSError):  # it ends by itself
            if not _held(store, mine):
                store.delete(NAME)


def _renew(store: Store, mine: str, seconds: float, over: threading.Event) -> None:
    while not over.wait(seconds / 3):
        with contextlib.suppress(UserError, OSError):  # a store that is away for a while: the next try may do
            _write(store, mine, seconds)


def _held(store: Store, mine: str) -> float:
    """Until when another holds it; 0: nobody does."""
    content = store.read(NAME)
    if content is None:
        return 0.0
    try:
        found = parse_json(content, store.join(NAME))
    except UserError:
        return 0.0
    until = found.get("until")
    return float(until) if found.get("holder") != mine and isinstance(until, int | float) else 0.0


def _write(store: Store, mine: str, seconds: float) -> None:
    store.write(NAME, json.dumps({"holder": mine, "until": time.time() + seconds}).encode())
