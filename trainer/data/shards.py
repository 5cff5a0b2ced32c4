"""llm.c's token shards (dev/data/data_common.py): 256 int32 of header, then tokens.

Header: magic, version, number of tokens. Magic 20240520 version 1 holds uint16, 20240801 version 7 uint32.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trainer.errors import UserError
from trainer.files import disk_error, write_atomic

HEADER = 256  # int32 values
KINDS = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
SAMPLE = 2**20
BLOCK = 2**24
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


# --- checksums: in a file beside the shard, for the format has no place for one ---------------------------------------


def seal(path: Path) -> None:
    """Write what the shard's content sums up to, and its largest id, beside it: SHARD.sum."""
    tokens = read_shard(path)
    write_atomic(_seal(path), json.dumps({"crc32": checksum(path), "largest": int(max(_largest(tokens)))}).encode())


def damage(path: Path, vocabulary: int) -> str:
    """What is wrong with a shard, by all that is in it: its checksum where it has one, else its ids. Empty: nothing.
    Reads it once, about a gigabyte a second."""
    try:
        tokens = read_shard(path)
        if _seal(path).exists():
            sealed = json.loads(_seal(path).read_text())
            if sealed["crc32"] != checksum(path):
                return f"{path} is damaged: its content does not fit its checksum"
            largest = sealed["largest"]
        else:
            largest = max(_largest(tokens))
    except (ValueError, KeyError, TypeError) as error:
        return f"{_seal(path)} is damaged ({error})"
    except UserError as error:
        return str(error)
    if largest >= vocabulary:
        return f"{path} holds token {largest}, and the vocabulary has {vocabulary:,}"
    return ""


def checksum(path: Path) -> int:
    """CRC-32 of the whole file."""
    total = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            total = zlib.crc32(block, total)
    return total


def digest(shards: Iterable[Path]) -> str:
    """Names the content of shards, wherever they lie. By their checksums; of a shard without one, by its size and
    2 x SAMPLE tokens of it: another corpus shows at once."""
    found = hashlib.blake2b(digest_size=8)
    for path in shards:
        if path.suffix == ".npy":  # packed rows of a fine-tuning
            found.update(np.ascontiguousarray(np.load(path, mmap_mode="r")).data)
            continue
        tokens = read_shard(path)
        found.update(len(tokens).to_bytes(8, "big"))
        if _seal(path).exists():
            found.update(_seal(path).read_bytes())
        else:
            found.update(tokens[:SAMPLE].tobytes() + tokens[:: max(1, len(tokens) // SAMPLE)].tobytes())
    return found.hexdigest()


def _seal(path: Path) -> Path:
    return path.with_name(f"{path.name}.sum")


def _largest(tokens: Tokens) -> Iterator[int]:
    yield -1
    for start in range(0, len(tokens), BLOCK):
        yield int(tokens[start : start + BLOCK].max())
