"""Documents of a corpus, in a fixed order, and which of them are held out."""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import lzma
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import zstandard

from trainer.config import DataConfig
from trainer.data.fetch import CORPORA, corpus_folder
from trainer.data.tokenizer import END_OF_TEXT
from trainer.errors import UserError

SUFFIXES = (".txt", ".md", ".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".parquet")
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
    path = Path(data.corpus).expanduser()
    if data.corpus in CORPORA and not path.exists():
        path = corpus_folder(data.corpus)
        if not path.is_dir():
            raise UserError(f"Corpus {data.corpus!r} is not here yet: python -m hpt.data get {data.corpus} --tokens N.")
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and _readable(p) and ".cache" not in p.parts)
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


def documents(data: DataConfig) -> Iterator[str]:
    """The texts of a corpus: a file (or a part of it), a line of .jsonl or a row of .parquet each. Empty ones are
    passed over."""
    for path in corpus_files(data):
        try:
            yield from (text for text in _read(path, data.text_field) if text.strip())
        except (
            OSError,
            EOFError,
            UnicodeDecodeError,
            zstandard.ZstdError,
            lzma.LZMAError,
        ) as error:
            raise UserError(f"{path} cannot be read ({error}): fetch or write it again.") from None


def _read(path: Path, field: str) -> Iterator[str]:
    name = path.name
    if name.endswith(".parquet"):
        yield from _parquet(path, field)
    elif name.endswith((".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst")):
        with open_text(path) as lines:
            for number, line in enumerate(lines, start=1):
                yield _field(line, field, f"{path}, line {number}")
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
    with open(path, encoding="utf-8", errors="replace") as lines:
        document = list[str]()
        for line in lines:
            if line.rstrip() == END_OF_TEXT:
                yield "".join(document)
                document.clear()
            else:
                document.append(line)
        yield "".join(document)


def open_text(path: Path) -> io.TextIOBase:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8")  # type: ignore[return-value]
    if path.name.endswith(".xz"):
        return lzma.open(path, "rt", encoding="utf-8")  # type: ignore[return-value]
    if path.name.endswith(".zst"):
        return zstandard.open(path, "rt", encoding="utf-8")  # type: ignore[return-value]
    return open(path, encoding="utf-8")


def _field(line: str, field: str, where: str) -> str:
    try:
        value = json.loads(line)[field]
    except (json.JSONDecodeError, TypeError):
        raise UserError(f"{where} is not a JSON object.") from None
    except KeyError:
        raise UserError(
            f"{where} has no field {field!r}: name the right one with --set data.text_field=NAME."
        ) from None
    return str(value)


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise UserError(
                    f"{path} has no column {field!r} but {', '.join(file.schema_arrow.names)}: name the right one "
                    "with --set data.text_field=NAME."
                )
            for batch in file.iter_batches(columns=[field]):
                yield from (str(text) for text in batch.column(0).to_pylist() if text is not None)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path} is not a whole parquet file ({error}).") from None


def held_out_rank(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: below a fraction f, the document is held out. So the split
    does not depend on the order of files, and exact copies are never on both sides."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
