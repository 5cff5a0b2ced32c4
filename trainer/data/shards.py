"""llm.c's token shards (dev/data/data_common.py): 256 int32 of header, then tokens.

Header: magic, version, number of tokens. Magic 20240520 version 1 holds uint16, 20240801 version 7 uint32.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from trainer.errors import UserError
from trainer.files import disk_error

HEADER = 256  # int32 values
KINDS = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
SAMPLE = 2**20
Tokens = np.ndarray


def read_shard(path: Path, vocabulary: int | None = None) -> Tokens:
    """The shard's tokens [n], uint16 or uint32, memory-mapped. With `vocabulary`, ids are checked."""
    try:
        size = path.stat().st_size
        header = np.fromfile(path, dtype="<i4", count=3)
    except FileNotFoundError:
        raise UserError(f"There is no token shard {path}.") from None
    magic = int(header[0]) if len(header) else None
    if len(header) < 3 or magic not in KINDS:
        raise UserError(f"{path} is not a token shard: its magic is {magic}, not {' or '.join(map(str, KINDS))}.")
    version, dtype = KINDS[magic]
    if header[1] != version:
        raise UserError(f"{path} is a token shard of version {header[1]}; hpt reads version {version}.")
    promised, held = int(header[2]), (size - 4 * HEADER) // dtype.itemsize
    if held != promised:
        raise UserError(
            f"{path} is truncated or damaged: its header promises {promised:,} tokens and it holds "
            f"{max(held, 0):,}: fetch or prepare it again."
        )
    if not promised:
        return np.empty(0, dtype)
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=4 * HEADER, shape=(promised,))
    if vocabulary is not None:
        _check_ids(path, tokens, vocabulary)
    return tokens


def _check_ids(path: Path, tokens: Tokens, vocabulary: int) -> None:
    """Looks at SAMPLE tokens from the beginning and as many spread over the rest: 10 billion would take minutes, and a
    wrong tokenizer shows at once."""
    stride = max(1, len(tokens) // SAMPLE)
    for start, step in ((0, 1), (0, stride)):
        part = tokens[start : start + step * SAMPLE : step]
        if part.max() >= vocabulary:
            at = int(np.argmax(part >= vocabulary))
            raise UserError(
                f"{path} holds token {part[at]} at position {start + at * step:,}, and the vocabulary has "
                f"{vocabulary:,}: it was made with another tokenizer."
            )


def write_shard(path: Path, tokens: Iterable[np.ndarray], vocabulary: int) -> int:
    """Write pieces of token ids as one shard, atomically; returns how many tokens. uint16 while ids fit."""
    magic = 20240520 if vocabulary <= 2**16 else 20240801
    version, dtype = KINDS[magic]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with open(temporary, "wb") as file:
            file.write(np.zeros(HEADER, "<i4").tobytes())
            for piece in tokens:
                file.write(np.asarray(piece).astype(dtype, casting="unsafe").tobytes())
                count += len(piece)
            header = np.zeros(HEADER, "<i4")
            header[:3] = magic, version, count
            file.seek(0)
            file.write(header.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
    return count
