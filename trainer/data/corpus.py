"""Documents of a corpus, in a fixed order, and which of them are held out."""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import io
import json
import lzma
import sysconfig
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet
import zstandard

from trainer.config import DataConfig
from trainer.data.folders import REPORTS, corpus_folder
from trainer.data.mirrored import mirror
from trainer.data.sources import CORPORA
from trainer.data.tokenizer import END_OF_TEXT
from trainer.errors import UserError

ASIDE = {".cache", REPORTS}  # folders in a corpus that hold no texts
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".json.gz")
SUFFIXES = (".txt", ".md", *JSON_LINES, ".parquet")
SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "__pycache__",
    "ensurepip",
}


def corpus_files(data: DataConfig) -> list[Path]:
    """The files of a corpus, sorted; UserError when there are none."""
    if data.corpus == "python":
        root = Path(sysconfig.get_path("stdlib"))
        return sorted(p for p in root.rglob("*.py") if not SKIPPED & set(p.relative_to(root).parts))
    path = mirror(data.corpus, (*SUFFIXES, ".bin")) if "://" in data.corpus else Path(data.corpus).expanduser()
    if data.corpus in CORPORA and not path.exists():
        path = corpus_folder(data.corpus)
        if not path.is_dir():
            raise UserError(f"Corpus {data.corpus!r} is not here yet: python -m hpt.data get {data.corpus} --tokens N.")
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and _readable(p) and not ASIDE & set(p.parts))
    else:
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
    if not files:
        what = "no file that hpt reads" if path.is_dir() else "nothing there"
        raise UserError(
            f"Corpus {data.corpus!r}: {what}. Give `python`, or a file, folder or glob of "
            f"{', '.join(SUFFIXES)}, or of token shards *_train_*.bin and *_val_*.bin."
        )
    return files


def _readable(path: Path) -> bool:
    return path.name.endswith((*SUFFIXES, ".bin"))


@dataclass(frozen=True)
class Reading:
    """How files are read."""

    field: str = "text"
    """Field of .jsonl and column of .parquet that holds a document."""
    skip_damaged: bool = False
    """Go on behind a row or a file that cannot be read; else it is a UserError."""


def documents(data: DataConfig) -> Iterator[str]:
    """The texts of a corpus: a file (or a part of it), a line of .jsonl or a row of .parquet each. Empty ones are
    passed over."""
    for path in corpus_files(data):
        yield from (text for text in rows(path, Reading(data.text_field)) if text and text.strip())


def rows(path: Path, how: Reading) -> Iterator[str | None]:
    """Every row of a file, in order, empty ones as "". With skip_damaged a row that cannot be read is None, and a file
    that breaks off ends with a None."""
    try:
        yield from _read(path, how)
    except (OSError, EOFError, UnicodeDecodeError, zstandard.ZstdError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EIO, errno.ENOENT):
            raise UserError(f"{path} cannot be read ({error.strerror}).") from None
        if not how.skip_damaged:
            raise UserError(
                f"{path} cannot be read ({error}): fetch or write it again, or pass over what is damaged with "
                "--skip-damaged of hpt.data."
            ) from None
        yield None
    except UserError:
        if not how.skip_damaged:
            raise
        yield None


def _read(path: Path, how: Reading) -> Iterator[str | None]:
    name = path.name
    if name.endswith(".parquet"):
        yield from _parquet(path, how.field)
    elif name.endswith(JSON_LINES):
        with open_bytes(path) as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield _field(line, how.field, f"{path}, line {number}")
                except UserError:
                    if not how.skip_damaged:
                        raise
                    yield None
    elif name.endswith(".py"):
        try:
            yield path.read_text("utf-8")
        except UnicodeDecodeError:
            return  # a few of the standard library's own tests of encodings
    elif name.endswith((".txt", ".md")):
        yield from _parted(path)
    else:
        raise UserError(f"{path} is of no kind that hpt reads: {', '.join(SUFFIXES)}.")


def _parted(path: Path) -> Iterator[str]:
    """The documents of a text file: parted by lines that are <|endoftext|>, as in TinyStories; one without them."""
    if _binary(path):
        raise UserError(f"{path} is not text in UTF-8: leave it out, or convert it (iconv -t utf-8).")
    with open(path, encoding="utf-8", errors="replace") as lines:
        document = list[str]()
        for line in lines:
            if line.rstrip() == END_OF_TEXT:
                yield "".join(document)
                document.clear()
            else:
                document.append(line)
        yield "".join(document)


def _binary(path: Path) -> bool:
    """By its beginning: zero bytes, or more than a tenth that is no UTF-8. A few stray bytes of old encodings are read
    as U+FFFD."""
    with open(path, "rb") as file:
        head = file.read(2**16)
    text = head.decode("utf-8", "replace")
    return b"\0" in head or text.count("\ufffd") > len(text) / 10


def open_text(path: Path) -> io.TextIOBase:
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8")  # type: ignore[arg-type]


def open_bytes(path: Path, mode: Literal["rb", "wb"] = "rb") -> io.BufferedIOBase:
    """Unpacked by the last ending of the name."""
    if path.suffix == ".zst":
        file = zstandard.open(path, mode)
        return io.BufferedReader(file, 2**20) if mode == "rb" else file  # type: ignore[arg-type,return-value]
    return {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)(path, mode)  # type: ignore[return-value]


def _field(line: bytes, field: str, where: str) -> str:
    if not line.strip():
        return ""
    values: dict[str, object] = {}
    try:
        values = json.loads(line.decode())
        value = values[field]
    except UnicodeDecodeError as error:
        raise UserError(f"{where} is not UTF-8 ({error.reason} at byte {error.start:,}).") from None
    except (json.JSONDecodeError, TypeError):
        raise UserError(f"{where} is not a JSON object.") from None
    except KeyError:
        raise UserError(
            f"{where} has no field {field!r} but {', '.join(values) or 'none'}: name the right one with --set "
            "data.text_field=NAME (hpt.data: --text-field NAME)."
        ) from None
    text = "" if value is None else str(value)
    if b"\\ud" in line.lower():  # half a surrogate pair is no character, and no UTF-8
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _parquet(path: Path, field: str) -> Iterator[str | None]:
    with open_parquet(path, field) as file:
        for batch in file.iter_batches(batch_size=4096, columns=[field]):
            yield from ("" if text is None else str(text) for text in batch.column(0).to_pylist())


@contextmanager
def open_parquet(path: Path, *fields: str) -> Iterator[pyarrow.parquet.ParquetFile]:
    """UserError when it is not whole or has not all the columns, in the block as well."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for field in fields:
                if field not in file.schema_arrow.names:
                    raise UserError(
                        f"{path} has no column {field!r} but {', '.join(file.schema_arrow.names)}: name the right one "
                        "with --set data.text_field=NAME (hpt.data: --text-field NAME)."
                    )
            yield file
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a whole parquet file ({str(error).splitlines()[0]}).") from None


def held_out_rank(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: below a fraction f, the document is held out. So the split
    does not depend on the order of files, and exact copies are never on both sides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
