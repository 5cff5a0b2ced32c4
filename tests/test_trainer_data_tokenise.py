"""Text to shards: units, blocks, the same bytes whoever makes them and however often cut off; validation; stores."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import DataConfig
from trainer.data import prepare
from trainer.data import tokenise as tokenising
from trainer.data.corpus import Reading, corpus_files, held_out_rank
from trainer.data.making import build
from trainer.data.mirrored import mirror
from trainer.data.prepare import read_prepared
from trainer.data.shards import read_shard, write_shard
from trainer.data.tokenise import encode, tokens_of
from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.data.units import Piece, blocks, documents_of, units
from trainer.errors import UserError
from trainer.storage import Store

TEXTS = [
    f"Story {i}: the {w} said {i * 7} times that {i * i} is enough.\n" * 3
    for i, w in enumerate(["cat", "dog", "日本"] * 40)
]
SIZE = 4000  # bytes of a unit, in place of 64 MB


def write_files(folder: Path, count: int = 5) -> Path:
    folder.mkdir(parents=True)
    for n in range(count):
        (folder / f"{n}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS[n::count]))
    return folder


def built(
    corpus: Path, out: Path, tokenizer: str = "bpe:300", *, processes: int = 1, **settings: object
) -> dict[str, object]:
    data = DataConfig(corpus=str(corpus), tokenizer=tokenizer, val_tokens=200, **settings)  # type: ignore[arg-type]
    files = corpus_files(data)
    return build(data, files, Reading(data.text_field), Store(str(out)), out, processes=processes, size=SIZE)


def shards(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}


def texts_of(out: Path, part: str) -> list[str]:
    """Documents in order of the shards' names."""
    prepared = read_prepared(out)
    encoding = load_tokenizer(prepared.tokenizer)
    tokens = np.concatenate([read_shard(p, prepared.vocabulary) for p in getattr(prepared, part)])
    return encoding.decode(tokens.tolist()).split("<|endoftext|>")[1:]


def test_every_document_is_once_in_a_shard(tmp_path: Path) -> None:
    made = built(write_files(tmp_path / "in"), tmp_path / "out")
    train, val = texts_of(tmp_path / "out", "train"), texts_of(tmp_path / "out", "val")
    assert sorted(train + val) == sorted(TEXTS) and made["documents"] == len(TEXTS)
    border = max(map(held_out_rank, val))
    assert border < min(map(held_out_rank, train)) and border < 0.5
    names = sorted(p.name for p in (tmp_path / "out").glob("*_train_*.bin"))
    assert names[0] == "corpus_train_000000.bin" and len(names) > 3
    assert [s["name"] for s in made["shards"] if s["part"] == "train"] == names  # type: ignore[index]
    assert texts_of(tmp_path / "out", "train")[:5] != [t for t in TEXTS if t in train][:5]  # shuffled inside a shard


def test_processes_and_interruptions_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_files(tmp_path / "in")
    built(corpus, tmp_path / "whole")
    built(corpus, tmp_path / "two", processes=2)
    assert shards(tmp_path / "two") == shards(tmp_path / "whole")
    real, left, cut = os.replace, [0], 0

    def replaced(source: object, target: object) -> None:
        real(source, target)  # type: ignore[arg-type]
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        for steps in (1, 2, 3, 1, 4, 2, 5):
            left[0] = steps
            try:
                built(corpus, tmp_path / "cut")
            except KeyboardInterrupt:
                cut += 1
    assert cut == 7
    built(corpus, tmp_path / "cut")
    assert shards(tmp_path / "cut") == shards(tmp_path / "whole")
    monkeypatch.setattr(tokenising, "write_shard", lambda *_: pytest.fail("made again"))
    built(corpus, tmp_path / "whole")


def test_a_large_file_is_many_shards_and_never_in_memory(tmp_path: Path) -> None:
    """40 MB through blocks of 1 MB: the peak of what Python holds stays near two blocks."""
    import tracemalloc

    line = json.dumps({"text": "All work and no play makes a dull corpus. " * 60}) + "\n"
    (tmp_path / "big.jsonl").write_text(line * (40 * 2**20 // len(line)))
    data = DataConfig(corpus=str(tmp_path / "big.jsonl"), tokenizer="bpe:300", val_tokens=200)
    train_tokenizer([line], 300, tmp_path / "t.json")
    data = replace(data, tokenizer=str(tmp_path / "t.json"))
    tracemalloc.start()
    found = sum(1 for unit in units(corpus_files(data)) for block in blocks(documents_of(unit, Reading()), 2**20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found >= 35 and peak < 8 * 2**20


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_blocks_are_neither_small_nor_large(sizes: list[int], size: int) -> None:
    documents = ["x" * n for n in sizes]
    made = list(blocks(iter(documents), size))
    assert [d for block in made for d in block] == documents
    weights = [sum(map(len, block)) for block in made]
    assert all(size <= w < size + 50 for w in weights[:-1])
    assert not weights or weights[-1] < 2 * size + 50


def test_parquet_is_parted_by_row_groups(tmp_path: Path) -> None:
    texts = [f"{i} " + "word " * 40 for i in range(300)]
    pq.write_table(
        pa.table({"text": texts, "n": range(300)}), tmp_path / "a.parquet", row_group_size=10, use_dictionary=False
    )
    parted = units([tmp_path / "a.parquet"], size=9000)
    assert len(parted) > 3 and all(len(unit) == 1 and isinstance(unit[0], Piece) for unit in parted)
    assert [d for unit in parted for d in documents_of(unit, Reading())] == texts
    assert units([tmp_path / "a.parquet"], size=9000) == parted
    assert len(units([tmp_path / "a.parquet"])) == 1


def test_small_files_share_a_unit(tmp_path: Path) -> None:
    files = corpus_files(DataConfig(corpus=str(write_files(tmp_path / "in"))))
    assert [len(unit) for unit in units(files, size=2 * files[0].stat().st_size - 500)] == [2, 2, 1]


def test_lists_of_tokens(tmp_path: Path) -> None:
    """With and without an end-of-text of their own."""
    rng, end = np.random.default_rng(0), 50256
    lists = [rng.integers(0, 50000, rng.integers(1, 90)).tolist() for _ in range(200)]
    given_ = [[[], [end]][i % 2] + ids + [[], [end]][i // 2 % 2] for i, ids in enumerate(lists)]
    pq.write_table(pa.table({"tokens": given_}), tmp_path / "t.parquet", row_group_size=20)
    made = built_tokens(tmp_path / "t.parquet", tmp_path / "out")
    found = np.concatenate([read_shard(tmp_path / "out" / s["name"]) for s in made["shards"]])  # type: ignore[attr-defined]
    parts = np.split(found, np.flatnonzero(found == end))[1:]
    assert sorted(p[1:].tolist() for p in parts) == sorted(lists)
    pq.write_table(pa.table({"tokens": [[60000]]}), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match="holds 60000, and the vocabulary of gpt2 has 50,257"):
        built_tokens(tmp_path / "bad.parquet", tmp_path / "none")


def built_tokens(path: Path, out: Path) -> dict[str, object]:
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(os.environ.get("HPT_SHARED_DATA", "shared/data")) / "tiktoken")
    try:
        return built(path, out, "gpt2", text_field="tokens")
    except UserError as error:
        if "cannot be fetched" in str(error):
            pytest.skip("GPT-2's vocabulary is not here")
        raise
    finally:
        del os.environ["TIKTOKEN_CACHE_DIR"]


def test_long_texts_are_encoded_in_parts_to_the_same_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_tokenizer(TEXTS, 400, tmp_path / "t.json")
    encoding, rng = load_tokenizer(str(tmp_path / "t.json")), random.Random(0)
    text = "".join(rng.choice(["Story ", "  cat", "\n\n", " 7", "'ll", "日本 ", " - ", "x"]) for _ in range(5000))
    whole = encoding.encode_ordinary(text)
    monkeypatch.setattr(tokenising, "LONG", 300)
    assert encode(text, encoding).tolist() == whole


def test_a_long_word_is_not_forever(tmp_path: Path) -> None:
    train_tokenizer(TEXTS, 400, tmp_path / "t.json")
    encoding, began = load_tokenizer(str(tmp_path / "t.json")), time.process_time()
    assert sum(map(len, tokens_of(["abc" * 200_000], encoding))) > 1000
    assert time.process_time() - began < 60


# --- what is held out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_a_lone_document_is_split_at_its_end(tmp_path: Path, count: int) -> None:
    """The input.txt that everybody tries first."""
    text = "".join(f"Line {i} of the play, in which somebody says {i * 17 % 23}.\n" for i in range(4000))
    (tmp_path / "input.txt").write_text("\n<|endoftext|>\n".join([text] * count))
    prepared = prepare(DataConfig(corpus=str(tmp_path / "input.txt"), tokenizer="bpe:400", val_tokens=2000))
    encoding = load_tokenizer(prepared.tokenizer)
    (val,) = [encoding.decode(read_shard(p).tolist()) for p in prepared.val]
    held = val.removeprefix("<|endoftext|>")
    assert text.rstrip("\n").endswith(held.rstrip("\n")) and held.startswith("Line") and prepared.val_tokens >= 2000
    train = "".join(encoding.decode(read_shard(p).tolist()) for p in prepared.train)
    assert train.count("Line") + held.count("Line") == 4000 * count and 0.03 < len(held) / len(text) < 0.25


def test_a_named_file_is_held_out(tmp_path: Path) -> None:
    corpus = write_files(tmp_path / "in", 2)
    val = [f"Validation {i}." for i in range(30)]
    (corpus / "val.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in val))
    built(corpus, tmp_path / "out", val="val.jsonl", val_documents=10)
    assert texts_of(tmp_path / "out", "val") == val[:10] and sorted(texts_of(tmp_path / "out", "train")) == sorted(
        TEXTS
    )
    elsewhere = tmp_path / "other.txt"
    elsewhere.write_text("\n<|endoftext|>\n".join(val))
    prepared = prepare(
        DataConfig(corpus=str(corpus), tokenizer="bpe:300", val=str(elsewhere), val_tokens=100), enough=False
    )
    assert prepared.val_tokens > 100 and prepared.val[0].name == "corpus_val_named.bin"
    whole = prepare(DataConfig(corpus=str(corpus), tokenizer="bpe:300", val_tokens=100))
    assert whole.train != prepared.train  # another cache


def test_a_cache_of_an_earlier_version_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard of each, and a prepared.json that does not list them, under the same key."""
    data = DataConfig(corpus=str(write_files(tmp_path / "in")), tokenizer="bpe:300", val_tokens=200)
    new = prepare(data)
    folder = new.train[0].parent
    values = json.loads((folder / "prepared.json").read_text())
    for part in ("train", "val"):
        (shard,) = getattr(new, part)
        os.replace(shard, folder / f"{part}.bin")
    old = {k: v for k, v in values.items() if k not in ("shards", "spec")} | {
        "tokenizer": str(folder / "tokenizer.json")
    }
    (folder / "prepared.json").write_text(json.dumps(old))
    monkeypatch.setattr(sys.modules["trainer.data.prepare"], "build", lambda *_, **__: pytest.fail("made again"))
    again = prepare(data)
    assert again == replace(new, train=(folder / "train.bin",), val=(folder / "val.bin",))


def test_small_corpora_have_the_bytes_of_earlier_versions(tmp_path: Path) -> None:
    """Shuffled whole by seed 0, then parted by rank: recorded searches go on with the same tokens."""
    data = DataConfig(corpus=str(write_files(tmp_path / "in")), tokenizer="bpe:300", val_tokens=200)
    prepared = prepare(data)
    encoding = load_tokenizer(prepared.tokenizer)
    texts = [t for n in range(5) for t in TEXTS[n::5]]
    random.Random(0).shuffle(texts)
    end = encoding.encode_single_token("<|endoftext|>")
    (val,), (train,) = prepared.val, prepared.train
    held = len([t for t in read_shard(val).tolist() if t == end])
    ranked = sorted(texts, key=held_out_rank)[:held]
    for path, part in ((val, [t for t in texts if t in ranked]), (train, [t for t in texts if t not in ranked])):
        assert read_shard(path).tolist() == [i for t in part for i in (end, *encoding.encode_ordinary(t))]


# --- stores -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An object store on loopback; the address is of a folder in its one bucket."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    before = dict(os.environ)
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
    from pyarrow import fs

    fs.S3FileSystem(
        endpoint_override=f"http://{host}:{port}", region="us-east-1", allow_bucket_creation=True
    ).create_dir("shards")
    yield f"s3://shards/FOLDER?region=us-east-1&endpoint_override=http%3A%2F%2F{host}%3A{port}"
    server.stop()
    os.environ.clear()
    os.environ.update(before)


def test_shards_in_an_object_store(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, address = write_files(tmp_path / "in"), bucket.replace("FOLDER", "one")
    built(corpus, tmp_path / "here")
    data = DataConfig(corpus=str(corpus), tokenizer="bpe:300", val_tokens=200)
    build(data, corpus_files(data), Reading(), Store(address), tmp_path / "staging", size=SIZE)
    used = replace(data, corpus=address)
    prepared = prepare(used)
    assert shards(prepared.train[0].parent).keys() >= shards(tmp_path / "here").keys()
    here = shards(tmp_path / "here")
    assert {n: b for n, b in shards(prepared.train[0].parent).items() if n in here} == here
    fetched: list[str] = []
    real = Store.fetch
    monkeypatch.setattr(Store, "fetch", lambda self, name, target: (fetched.append(name), real(self, name, target))[1])
    assert prepare(used) == prepared and not fetched  # by name, size and checksum
    prepared.train[1].write_bytes(b"short")
    assert prepare(used) == prepared and fetched == [prepared.train[1].name]
    monkeypatch.setattr(tokenising, "write_shard", lambda *_: pytest.fail("made again"))
    build(data, corpus_files(data), Reading(), Store(address), tmp_path / "other", size=SIZE)


def test_a_store_that_refuses_is_a_sentence(tmp_path: Path, bucket: str) -> None:
    gone = bucket.replace("shards/FOLDER", "nobody/x")
    with pytest.raises(UserError, match="holds no file that hpt reads|cannot be used"):
        mirror(gone, (".bin",))
    with pytest.raises(UserError, match="s3://nobody/x cannot be used"):
        Store(gone).write("a", b"b")
    with pytest.raises(UserError, match="cannot be used"):
        Store("s3://shards/x?region=us-east-1&endpoint_override=http%3A%2F%2F127.0.0.1%3A1").read("a")


def test_foreign_shards_in_a_store(tmp_path: Path, bucket: str) -> None:
    address = bucket.replace("FOLDER", "foreign")
    for name in ("x_train_000001.bin", "x_val_000000.bin"):
        write_shard(tmp_path / name, [np.arange(500)], 50257)
        Store(address).put(tmp_path / name, name)
    prepared = prepare(DataConfig(corpus=address, tokenizer="gpt2", val_tokens=100))
    assert prepared.train_tokens == 500 and not (tmp_path / "x_val_000000.bin").exists()
