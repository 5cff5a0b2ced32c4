"""Shards, tokenizer, corpora, preparation, batches."""

from __future__ import annotations

import errno
import gzip
import json
import lzma
import multiprocessing
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tiktoken
import tokenizers
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import DataConfig
from trainer.data import Batches, check_enough, prepare
from trainer.data.batches import permuted
from trainer.data.corpus import corpus_files, documents, held_out_rank
from trainer.data.prepare import Prepared
from trainer.data.shards import read_shard, write_shard
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.errors import UserError

TEXTS = [f"Document {i}: the {w} said {i * 7} times.\n" * 8 for i, w in enumerate(["cat", "dog", "Äpfel", "日本"] * 60)]


def write_jsonl(path: Path, texts: list[str] = TEXTS) -> DataConfig:
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return DataConfig(corpus=str(path), tokenizer="bpe:300", val_tokens=512)


def sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- shards -----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2**17 - 1), max_size=200), st.booleans())
@settings(max_examples=40, deadline=None)
def test_shards_round_trip(tmp_path_factory: pytest.TempPathFactory, ids: list[int], small: bool) -> None:
    vocabulary = 2**16 if small else 2**17
    path, tokens = tmp_path_factory.mktemp("s") / "a.bin", np.array([i % vocabulary for i in ids], np.int64)
    assert write_shard(path, np.array_split(tokens, 3), vocabulary) == len(ids)
    read = read_shard(path, vocabulary)
    assert read.dtype.itemsize == (2 if small else 4) and read.tolist() == tokens.tolist()
    header = np.fromfile(path, "<i4", 3).tolist()
    assert header == [20240520 if small else 20240801, 1 if small else 7, len(ids)]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: b[:-2], "its header promises 100 tokens and it holds 99"),
        (lambda b: b"\0\0\0\0" + b[4:], "its magic is 0"),
        (lambda b: b[:4] + b"\7" + b[5:], "version 7; hpt reads version 1"),
        (lambda b: b[:7], "is not a token shard"),
        (lambda b: b[:1024] + b"\xff\xff" + b[1026:], "token 65535 at position 0, and the vocabulary has 300"),
    ],
)
def test_damaged_shards_are_one_sentence(tmp_path: Path, damage: Callable[[bytes], bytes], words: str) -> None:
    path = tmp_path / "a.bin"
    write_shard(path, [np.arange(100)], 300)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError) as error:
        read_shard(path, 300)
    assert words in sentence(error) and str(path) in sentence(error)


def test_a_full_disk_leaves_no_half_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="is full"):
        write_shard(tmp_path / "a.bin", [np.arange(5)], 300)
    assert list(tmp_path.iterdir()) == []


# --- batches ----------------------------------------------------------------------------------------------------


@given(st.integers(1, 3000), st.integers(0, 9), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_permutation_is_a_bijection(size: int, seed: int, epoch: int) -> None:
    assert sorted(permuted(i, size, (seed, epoch)) for i in range(size)) == list(range(size))


def test_permutation_is_shuffled_and_differs_by_epoch_and_seed() -> None:
    orders = [[permuted(i, 1000, key) for i in range(1000)] for key in ((0, 0), (0, 1), (1, 0))]
    assert len({tuple(o) for o in orders}) == 3
    for order in orders:
        assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.15
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.15


def test_batches_are_a_function_of_the_position(tmp_path: Path) -> None:
    for i, size in enumerate((101, 53, 7)):
        write_shard(tmp_path / f"{i}.bin", [np.arange(size) + 1000 * i], 5000)
    shards = sorted(tmp_path.glob("*.bin"))
    batches = Batches(shards, 10, seed=3)
    assert batches.windows == 10 + 5 and batches.tokens == 150
    epoch = batches.sequences(0, 15)
    assert len({tuple(row) for row in epoch}) == 15
    assert np.array_equal(np.diff(epoch, axis=1), np.ones((15, 10)))  # never spans shards; targets follow inputs
    assert np.array_equal(batches.sequences(7, 20)[:8], epoch[7:])
    assert not np.array_equal(batches.sequences(15, 15), epoch)
    in_order = Batches(shards, 10, seed=None).sequences(0, 15)
    assert sorted(map(tuple, epoch)) == list(map(tuple, in_order))
    with pytest.raises(UserError, match="holds no 201 tokens in a row"):
        Batches(shards, 200, seed=0)


# --- tokenizer --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[tokenizers.Tokenizer, tiktoken.Encoding]:
    path = tmp_path_factory.mktemp("bpe") / "t.json"
    slow = train_tokenizer(TEXTS, 400, path)
    return slow, load_tokenizer(str(path))


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_tiktoken_runs_what_tokenizers_trained(
    trained: tuple[tokenizers.Tokenizer, tiktoken.Encoding], text: str
) -> None:
    slow, fast = trained
    ids = fast.encode_ordinary(text)
    assert ids == slow.encode(text).ids and fast.decode(ids) == text


def test_end_of_text_is_the_last_id_and_counts(trained: tuple[tokenizers.Tokenizer, tiktoken.Encoding]) -> None:
    fast = trained[1]
    assert fast.n_vocab == 400 and fast.encode_single_token("<|endoftext|>") == 399


def test_named_tokenizers(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken"))
    assert load_tokenizer("gpt2").encode("hello world") == [31373, 995]


def test_a_vocabulary_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: str) -> None:
        raise ConnectionError

    monkeypatch.setattr(tiktoken, "get_encoding", refused)
    with pytest.raises(UserError) as error:
        load_tokenizer("gpt2")
    assert "TIKTOKEN_CACHE_DIR" in sentence(error) and "bpe:SIZE" in sentence(error)


# --- corpora ----------------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": t}) + "\n" for t in TEXTS).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.xz").write_bytes(lzma.compress(lines))
    (tmp_path / "d.jsonl.zst").write_bytes(zstandard.compress(lines))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "n": range(len(TEXTS))}), tmp_path / "e.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert list(documents(DataConfig(corpus=str(path)))) == TEXTS, path
    assert len(list(documents(DataConfig(corpus=str(tmp_path))))) == 5 * len(TEXTS)
    assert len(corpus_files(DataConfig(corpus=str(tmp_path / "*.jsonl*")))) == 4
    (tmp_path / "f.txt").write_text("one")
    assert list(documents(DataConfig(corpus=str(tmp_path / "*.txt")))) == ["one"]


def test_python_corpus_is_the_standard_library_without_tests() -> None:
    files = corpus_files(DataConfig())
    assert len(files) > 300 and not any({"test", "tests", "site-packages"} & set(p.parts[-3:-1]) for p in files)
    assert files == corpus_files(DataConfig())


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'{"body": "x"}\n', "has no field 'text'"),
        ("a.jsonl", b"{broken\n", "line 1 is not a JSON object"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("a.parquet", b"not parquet", "not a whole parquet file"),
        ("a.doc", b"x", "is of no kind that hpt reads"),
        ("a.txt", b"   ", "holds no text"),
        ("a.txt", random.Random(0).randbytes(5000), "is not text in UTF-8"),
        ("a.md", "in two bytes a letter".encode("utf-16"), "is not text in UTF-8"),
    ],
)
def test_bad_corpora_are_one_sentence(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        prepare(DataConfig(corpus=str(tmp_path / name), tokenizer="bpe:300", val_tokens=10))
    assert words in sentence(error)


# --- prepare ----------------------------------------------------------------------------------------------------


def test_prepared_once_then_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, said = write_jsonl(tmp_path / "a.jsonl"), []
    first = prepare(data, say=said.append)
    assert said and prepare(data, say=lambda text: pytest.fail(text)) == first
    tokens = np.concatenate([read_shard(p) for p in (*first.train, *first.val)])
    assert (tokens == first.end_of_text).sum() == len(TEXTS) and first.vocabulary == 300
    encoding = load_tokenizer(first.tokenizer)
    val = read_shard(first.val[0])[: data.val_tokens].tolist()
    assert first.bytes_per_token == pytest.approx(
        len(encoding.decode_bytes([t for t in val if t != first.end_of_text])) / data.val_tokens
    )
    write_jsonl(tmp_path / "a.jsonl", TEXTS[:-1])
    assert prepare(data).train != first.train  # other content, other shards


def test_copies_are_never_on_both_sides(tmp_path: Path) -> None:
    prepared = prepare(write_jsonl(tmp_path / "a.jsonl", TEXTS[:80] * 3))
    encoding = load_tokenizer(prepared.tokenizer)
    sides = [
        set(encoding.decode(read_shard(p[0]).tolist()).split("<|endoftext|>")) for p in (prepared.train, prepared.val)
    ]
    assert not (sides[0] & sides[1]) - {""}
    assert held_out_rank("a") == held_out_rank("a") != held_out_rank("b")


def test_too_little_data_says_how_much_there_is(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "a.jsonl")
    prepared = prepare(data)
    with pytest.raises(UserError) as error:
        check_enough(prepared, data, 10**9)
    assert f"{prepared.train_tokens:,} training tokens" in sentence(error) and "--set data.epochs=" in sentence(error)
    wanted = float(sentence(error).split("data.epochs=")[1].rstrip("."))
    check_enough(prepared, replace(data, epochs=wanted), 10**9)
    with pytest.raises(UserError, match="held-out tokens"):
        prepare(replace(data, val_tokens=10**7))
    with pytest.raises(UserError, match="model's vocabulary only 299"):
        prepare(data, vocabulary=299)


def test_ready_made_shards_are_used_as_they_are(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken"))
    rng = np.random.default_rng(0)
    for name in ("fineweb_train_000001.bin", "fineweb_train_000002.bin", "fineweb_val_000000.bin"):
        write_shard(tmp_path / name, [rng.integers(0, 50257, 5000)], 50257)
    prepared = prepare(DataConfig(corpus=str(tmp_path), tokenizer="gpt2", val_tokens=1000))
    assert (prepared.train_tokens, prepared.val_tokens, prepared.vocabulary) == (10_000, 5_000, 50257)
    assert prepared.train[0] == tmp_path / "fineweb_train_000001.bin"
    with pytest.raises(UserError, match="name it with --tokenizer"):
        prepare(DataConfig(corpus=str(tmp_path), tokenizer="bpe:300"))
    (tmp_path / "fineweb_val_000000.bin").unlink()
    with pytest.raises(UserError, match="2 training and 0 validation shards"):
        prepare(DataConfig(corpus=str(tmp_path), tokenizer="gpt2"))


def _prepare(data: DataConfig) -> Prepared:
    return prepare(data)


def test_two_processes_preparing_at_once_agree(tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "a.jsonl")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        one, two = pool.map(_prepare, [data, data])
    assert one == two and one.train[0].exists()


def test_a_damaged_shard_is_found_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.data.shards import checksum, damage, digest, seal

    monkeypatch.setenv("HPT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"number {k} " * 30}) + "\n" for k in range(99)))
    config = DataConfig(corpus=str(tmp_path / "text.jsonl"), tokenizer="bpe:270", val_tokens=64)
    made, said = prepare(config), list[str]()
    before = {path: path.read_bytes() for path in (*made.train, *made.val)}
    assert prepare(config, say=said.append) == made and not said
    for path in before:
        harmed = bytearray(before[path])
        harmed[-7] ^= 1
        path.write_bytes(harmed)
        assert "does not fit its checksum" in damage(path, 270)
        assert prepare(config, say=said.append) == made and path.read_bytes() == before[path]
        assert "preparing the corpus again" in said[0]
        said.clear()
    (made.train[0].parent / "prepared.json").write_text("")
    assert prepare(config, say=said.append) == made and "prepared.json is damaged" in said[0]
    seal(made.train[0])  # the same again
    assert not damage(made.train[0], 270) and damage(made.train[0], 20).endswith("the vocabulary has 20")
    assert checksum(made.train[0]) != checksum(made.val[0]) and digest(made.train) != digest(made.val)
    Path(f"{made.val[0]}.sum").unlink()
    assert not damage(made.val[0], 270) and "the vocabulary has 20" in damage(made.val[0], 20)


def test_a_cache_that_is_read_only_will_do_where_all_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPT_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": f"number {k} " * 30}) + "\n" for k in range(99)))
    config = DataConfig(corpus=str(tmp_path / "text.jsonl"), tokenizer="bpe:270", val_tokens=64)
    made = prepare(config)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert prepare(config) == made
    with pytest.raises(UserError, match="cannot be written: choose another directory"):
        prepare(replace(config, tokenizer="bpe:280"))
