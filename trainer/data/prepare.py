"""A corpus as token shards, in the user's cache, made once."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tiktoken
from filelock import FileLock

from trainer.config import DataConfig, RunConfig
from trainer.data.batches import DocumentBatches
from trainer.data.corpus import Reading, corpus_files
from trainer.data.folders import REPORTS
from trainer.data.folders import cache_dir as cache_dir
from trainer.data.making import HELD_OUT, build, bytes_per_token
from trainer.data.packed import read_packed
from trainer.data.shards import damage, read_shard
from trainer.data.sources import CORPORA
from trainer.data.tokenizer import bpe_size, ids_of, load_tokenizer
from trainer.errors import UserError
from trainer.files import disk_error
from trainer.storage import Store

FORMAT = 2  # of the cache; a change of anything that alters the shards of a small corpus raises it


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Token shards ready to train on."""

    train: tuple[Path, ...]
    val: tuple[Path, ...]
    train_tokens: int
    val_tokens: int
    vocabulary: int
    """Ids of the tokenizer; the model may have more rows."""
    tokenizer: str
    """For `load_tokenizer`."""
    end_of_text: int
    """Stands before each document."""
    bytes_per_token: float
    """Of the held-out tokens that evaluations read: nats a token / ln 2 / this = bits a byte."""


def prepare(
    data: DataConfig,
    *,
    vocabulary: int | None = None,
    enough: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Tokenise `data`, or find it in the cache. Deterministic; several processes may call it at once.

    vocabulary: the model's, which must hold the tokenizer's. enough: refuse fewer held-out tokens than data.val_tokens.
    """
    size = bpe_size(data.tokenizer)
    files = [] if data.pack == "rows" else corpus_files(data)
    if data.pack == "rows":
        prepared = Prepared(**read_packed(data.corpus))
    elif all(p.suffix == ".bin" for p in files):
        prepared = _ours(data, files[0].parent) or _ready_made(data, files)
    else:
        if size is None:
            load_tokenizer(data.tokenizer)  # tells at once when it cannot be had
        folder = cache_dir() / "data" / _key(data, files)
        prepared = _found(folder, say) or _made(data, files, folder, say)
    if vocabulary is not None and prepared.vocabulary > vocabulary:
        raise UserError(
            f"Tokenizer {data.tokenizer} has {prepared.vocabulary:,} ids and the model's vocabulary only "
            f"{vocabulary:,}: use --set model.vocabulary={prepared.vocabulary} or a smaller tokenizer."
        )
    if enough and prepared.val_tokens < data.val_tokens:
        raise UserError(
            f"Corpus {data.corpus!r} has {prepared.val_tokens:,} held-out tokens, and evaluations read "
            f"{data.val_tokens:,}: use --set data.val_tokens={_fitting(prepared, data)} or a larger corpus."
        )
    return prepared


def _fitting(prepared: Prepared, data: DataConfig) -> int:
    """Tokens to hold out of a small corpus: a twentieth, or of a file that is held out, what it has."""
    own = (prepared.train_tokens + prepared.val_tokens) // 20
    return prepared.val_tokens if data.val else min(prepared.val_tokens, max(1, own))


def here(prepared: Prepared, run: RunConfig) -> Prepared:
    """The same data on this machine: another node of a cluster finds or makes its own copy, and UserError where that is
    another one."""
    if all(path.exists() for path in (*prepared.train, *prepared.val)):
        return prepared
    mine = prepare(run.data, vocabulary=run.model.vocabulary)
    if (mine.train_tokens, mine.val_tokens) != (prepared.train_tokens, prepared.val_tokens):
        raise UserError(
            f"Corpus {run.data.corpus!r} has {mine.train_tokens:,} training tokens on node {platform.node()} and "
            f"{prepared.train_tokens:,} where the search was begun: give all nodes the same files, or use a store."
        )
    return mine


def check_enough(prepared: Prepared, data: DataConfig, tokens: int, context: int | None = None) -> None:
    """UserError when a run of `tokens` would repeat the corpus more often than `data.epochs` allows. With `context`, of
    a document a sequence: what counts is how many there are, not how long."""
    if context is not None and data.pack == "documents":
        _check_documents(prepared, data, tokens, context)
    elif tokens > prepared.train_tokens * data.epochs:
        get = f"fetch more with python -m hpt.data get {data.corpus} --tokens {math.ceil(tokens / data.epochs)}"
        more = get if data.corpus in CORPORA else "give a larger corpus"
        raise UserError(
            f"Corpus {data.corpus!r} has {prepared.train_tokens:,} training tokens and the run needs {tokens:,}: "
            f"lower --tokens, {more}, or allow repetition with "
            f"--set data.epochs={math.ceil(100 * tokens / prepared.train_tokens) / 100:.2f}."
        )


def _check_documents(prepared: Prepared, data: DataConfig, tokens: int, context: int) -> None:
    held, wanted = (
        DocumentBatches(prepared.val, context, None, prepared.end_of_text).windows,
        data.val_tokens // context,
    )
    if held < wanted:
        raise UserError(
            f"Corpus {data.corpus!r} has {held:,} held-out documents, and evaluations read {wanted:,} sequences of one "
            f"each: use --set data.val_tokens={held * context}, a larger corpus or data.pack=stream."
        )
    documents = DocumentBatches(prepared.train, context, 0, prepared.end_of_text).windows
    if tokens > documents * context * data.epochs:
        raise UserError(
            f"Corpus {data.corpus!r} has {documents:,} training documents, and the run reads "
            f"{math.ceil(tokens / context):,} sequences of one each: lower --tokens, give a larger corpus, use "
            f"data.pack=stream, or allow repetition with --set data.epochs={math.ceil(tokens / documents / context)}."
        )


def _key(data: DataConfig, files: list[Path]) -> str:
    """Names the content without reading it: each file's path, size and time of change, and all that shapes shards."""
    held = [Path(data.val).expanduser()] if data.val else []
    stats = [(str(p.absolute()), (s := p.stat()).st_size, s.st_mtime_ns) for p in (*files, *held)]
    shaping = [
        FORMAT,
        data.tokenizer,
        data.text_field,
        data.val_tokens,
        HELD_OUT,
        tiktoken.__version__,
    ]
    if data.val:
        shaping += [data.val_documents]
    return hashlib.blake2b(json.dumps([shaping, stats]).encode(), digest_size=12).hexdigest()


def read_prepared(folder: Path) -> Prepared:
    """What `build` left in a folder, or an hpt before 0.2, which had one shard of each."""
    values = json.loads((folder / "prepared.json").read_text())
    shards = values.pop("shards", None)
    values.pop("spec", None)
    if shards is None:
        return Prepared(train=(folder / "train.bin",), val=(folder / "val.bin",), **values)
    parts = {part: tuple(folder / s["name"] for s in shards if s["part"] == part) for part in ("train", "val")}
    if values["tokenizer"] == "tokenizer.json":
        values["tokenizer"] = str(folder / "tokenizer.json")
    return Prepared(**parts, **values)


def _found(folder: Path, say: Callable[[str], None]) -> Prepared | None:
    """What was prepared before, whole; None: it is not here, or damaged and to be made again. Nothing is written, so a
    cache that is read-only will do."""
    try:
        prepared = read_prepared(folder)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        say(f"{folder / 'prepared.json'} is damaged ({error}): preparing the corpus again")
        return None
    for path in (*prepared.train, *prepared.val):
        if fault := damage(path, prepared.vocabulary):
            say(f"{fault}: preparing the corpus again")
            return None
    return prepared


def _made(data: DataConfig, files: list[Path], folder: Path, say: Callable[[str], None]) -> Prepared:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if (prepared := _found(folder, say)) is None:  # another process may have made it meanwhile
                if (folder / "prepared.json").exists():  # it was finished, and is damaged: nothing of it counts
                    shutil.rmtree(folder / REPORTS, ignore_errors=True)
                    (folder / "tokenizer.json").unlink(missing_ok=True)
                build(data, files, Reading(data.text_field), Store(str(folder)), folder, say=say)
                prepared = read_prepared(folder)
    except OSError as error:
        raise disk_error(error, folder / "prepared.json") from error
    return prepared


def _ours(data: DataConfig, folder: Path) -> Prepared | None:
    """Shards of `hpt.data tokenise`, which say by themselves what they were made with."""
    if not (folder / "prepared.json").exists():
        return None
    spec = json.loads((folder / "prepared.json").read_text()).get("spec")
    if spec != data.tokenizer:
        raise UserError(
            f"The shards of corpus {data.corpus!r} were made with --tokenizer {spec}, not {data.tokenizer}."
        )
    prepared = read_prepared(folder)
    for path in (*prepared.train, *prepared.val):
        if fault := damage(path, prepared.vocabulary):
            raise UserError(f"{fault}: make it again with hpt.data tokenise, or fetch it again.")
    return prepared


def _ready_made(data: DataConfig, files: list[Path]) -> Prepared:
    """Shards that somebody else wrote, such as fineweb_train_000001.bin and fineweb_val_000000.bin. No vocabulary is
    fetched for them: without one, bytes a token are not known."""
    train, val = ([p for p in files if f"_{part}_" in p.name] for part in ("train", "val"))
    if not train or not val:
        raise UserError(
            f"Corpus {data.corpus!r} has {len(train)} training and {len(val)} validation shards: "
            "it needs files named *_train_*.bin and *_val_*.bin."
        )
    if bpe_size(data.tokenizer) is not None:
        raise UserError(
            f"Token shards were made with a known tokenizer: name it with --tokenizer, not {data.tokenizer}."
        )
    vocabulary, end, encoding = ids_of(data.tokenizer)
    for path in (*train, *val):
        if fault := damage(path, vocabulary):
            raise UserError(
                f"{fault}: fetch it again (python -m hpt.data get NAME --tokens N), or name its own --tokenizer."
            )
    return Prepared(
        train=tuple(train),
        val=tuple(val),
        train_tokens=sum(len(read_shard(p, vocabulary)) for p in train),
        val_tokens=sum(len(read_shard(p, vocabulary)) for p in val),
        vocabulary=vocabulary,
        tokenizer=data.tokenizer,
        end_of_text=end,
        bytes_per_token=bytes_per_token(val, data.val_tokens, encoding) if encoding else math.nan,
    )
