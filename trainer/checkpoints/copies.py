"""Runs and searches in an object store, for the commands that read them: what is needed is copied into the cache."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trainer.checkpoints.saver import FOLDER
from trainer.data.folders import cache_dir
from trainer.errors import UserError
from trainer.files import write_atomic
from trainer.storage import Store

SMALL = ("run.json", "tokenizer.json", "evaluations.json", "config.json", "recommendation.json")


def here(place: str | Path) -> Path:
    """`place` itself where it is a path; of a store's address a folder on this machine with the small files of the run
    or search there and its newest checkpoint. A copy that is there already is not fetched again.

    The copy of an address of a checkpoint file is that file, with the run's tokenizer beside it.
    """
    address = str(place)
    if "://" not in address:
        return Path(place)
    base, _, options = address.partition("?")
    if base.endswith(".safetensors"):
        parent, _, name = base.rpartition("/")
        parent = parent.removesuffix(f"/{FOLDER}")
        inside = base.removeprefix(f"{parent}/")
    else:
        parent, name, inside = base.rstrip("/"), "", ""
    store = Store(f"{parent}?{options}" if options else parent)
    key = hashlib.sha256(store.address.encode()).hexdigest()[:16]
    folder = cache_dir() / "stores" / key / (parent.rpartition("/")[2] or "run")
    for small in SMALL:
        if (content := store.read(small)) is not None:
            write_atomic(folder / small, content)
    names = [inside] if inside else store.names(FOLDER)[-1:]
    if not names and not (folder / "config.json").is_file():
        raise UserError(f"{store.shown} holds neither a run nor a search: check the address.")
    for wanted in names:
        if not (folder / wanted).is_file():
            content = store.read(wanted)
            if content is None:
                raise UserError(f"There is no checkpoint {store.join(wanted)}.")
            write_atomic(folder / wanted, content)
            for old in (folder / wanted).parent.glob("*.safetensors"):  # the newest alone is kept
                if old.name != Path(wanted).name:
                    old.unlink()
    return folder / inside if name else folder
