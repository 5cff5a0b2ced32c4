"""Fetching public corpora from a hub on loopback; looking into a corpus."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpt import data
from trainer.config import DataConfig
from trainer.data import check_enough, prepare
from trainer.data.corpus import documents
from trainer.data.shards import read_shard, write_shard
from trainer.data.sources import CORPORA, wanted
from trainer.errors import UserError

FILES: dict[str, bytes] = {}
ASKED: list[tuple[str, str]] = []
PATHS: list[str] = []
"""What the API was asked."""
CUT: list[int] = []
"""Bytes after which the next bodies end, with no word that they do."""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as fetching a file needs: metadata in the headers, ranges."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        if self.path.startswith("/api/datasets/"):
            return self.listing()
        name = unquote(self.path.rpartition("/")[2])
        ASKED.append((self.command, f"{name} {self.headers.get('Range', '')}".strip()))
        if name not in FILES:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content, published = FILES[name], FILES.get(f"published {name}", FILES[name])
        first = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{hashlib.sha256(published).hexdigest()}"')
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if body:
            self.close_connection = bool(CUT)
            self.wfile.write(content[first : first + CUT.pop(0)] if CUT else content[first:])

    def listing(self) -> None:
        """The repository's files, as the hub's API tells them."""
        PATHS.append(self.path)
        known = "/api/datasets/some/texts" in self.path
        siblings = [{"rfilename": f"data/{name}"} for name in FILES if "published" not in name]
        content = json.dumps({"id": "some/texts", "sha": "c" * 40, "siblings": siblings}).encode()
        tree = json.dumps([{"type": "file", "path": s["rfilename"], "size": 1, "oid": "0"} for s in siblings]).encode()
        content = (tree if "/tree/" in self.path else content) if known else b"{}"
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Serves two small shards under the real names."""
    for name, seed in (("fineweb_val_000000.bin", 0), ("fineweb_train_000001.bin", 1)):
        write_shard(tmp_path / name, [np.random.default_rng(seed).integers(0, 50257, 3000)], 50257)
        FILES[name] = (tmp_path / name).read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("trainer.data.fetch.PAUSE", 0.0)
    yield tmp_path
    server.shutdown()
    server.server_close()
    FILES.clear()
    ASKED.clear()
    PATHS.clear()
    CUT.clear()


def test_a_named_corpus_is_fetched_and_found(hub: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken"))
    config = DataConfig(corpus="fineweb10b", tokenizer="gpt2", val_tokens=512)
    with pytest.raises(UserError, match="python -m hpt.data get fineweb10b"):
        prepare(config)
    assert data.main(["get", "fineweb10b", "--tokens", "1e8"]) == 0
    prepared = prepare(config)
    assert (prepared.train_tokens, prepared.val_tokens, len(prepared.train)) == (3000, 3000, 1)
    ASKED.clear()
    assert data.main(["get", "fineweb10b", "--tokens", "1e8"]) == 0
    assert not ASKED  # what is there and whole is not asked for again
    assert data.main(["inspect", "fineweb10b", "--json"]) == 0
    with pytest.raises(UserError, match="fetch more with python -m hpt.data get fineweb10b --tokens 3001"):
        check_enough(prepared, config, 3001)


def test_a_fetch_goes_on_where_it_broke_off(hub: Path) -> None:
    out, name = hub / "out", "fineweb_val_000000.bin"
    CUT[:] = [2000, 0, 3000]
    assert data.main(["get", "fineweb10b", "--shards", "1", "--out", str(out)]) == 0
    starts = [first for _, asked in ASKED if (first := asked.partition(f"{name} bytes=")[2])]
    assert starts == ["0-", "2000-", "2000-", "5000-"]
    assert (out / name).read_bytes() == FILES[name]
    (out / name).unlink()
    CUT[:] = [2000, 0, 0, 0, 0]
    with pytest.raises(UserError, match="2,000 of 7,024 bytes.*goes on where it stopped"):
        data.main(["get", "fineweb10b", "--shards", "1", "--out", str(out)])
    assert not (out / name).exists()
    ASKED.clear()
    CUT.clear()
    assert data.main(["get", "fineweb10b", "--shards", "1", "--out", str(out)]) == 0
    assert ("GET", f"{name} bytes=2000-") in ASKED and (out / name).read_bytes() == FILES[name]
    assert not list(out.glob("*.part"))


def test_a_server_that_is_away_or_no_hub_is_a_sentence(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(UserError, match="Connection refused.*check the network"):
            data.main(["get", "fineweb10b", "--shards", "1", "--out", str(hub / "out")])


def test_a_published_file_that_is_no_shard_is_not_kept(hub: Path) -> None:
    FILES["fineweb_val_000000.bin"] = FILES["fineweb_val_000000.bin"][:-10]
    with pytest.raises(UserError, match="is no whole token shard"):
        data.main(["get", "fineweb10b", "--shards", "1", "--out", str(hub / "out")])
    assert not list((hub / "out").glob("fineweb*"))


def test_stories_in_one_file_are_documents(hub: Path) -> None:
    stories = [f"Once upon a time there were {i} birds.\nThey sang {i * i} songs.\n" for i in range(400)]
    FILES["TinyStoriesV2-GPT4-train.txt"] = "<|endoftext|>\n".join(stories[40:]).encode()
    FILES["TinyStoriesV2-GPT4-valid.txt"] = "<|endoftext|>\n".join(stories[:40]).encode()
    with pytest.raises(UserError, match="python -m hpt.data get tinystories"):
        prepare(DataConfig(corpus="tinystories"))
    assert data.main(["get", "tinystories"]) == 0
    config = DataConfig(corpus="tinystories", tokenizer="bpe:300", val_tokens=256)
    assert list(documents(config)) == [*stories[40:], *stories[:40]]
    prepared = prepare(config)
    tokens = np.concatenate([read_shard(p) for p in (*prepared.train, *prepared.val)])
    assert (tokens == prepared.end_of_text).sum() == 400


def test_a_damaged_shard_is_fetched_again(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = hub / "out"
    assert data.main(["get", "fineweb10b", "--shards", "1", "--out", str(out)]) == 0
    shard = out / "fineweb_train_000001.bin"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert data.main(["get", "fineweb10b", "--shards", "1", "--out", str(out)]) == 0
    assert "truncated or damaged" in " ".join(capsys.readouterr().out.split())
    assert len(read_shard(shard)) == 3000


def test_what_arrives_wrong_is_not_kept(hub: Path) -> None:
    name, out = "fineweb_train_000001.bin", hub / "out"
    flipped = bytearray(FILES[name])
    flipped[-1] ^= 1
    FILES[f"published {name}"], FILES[name] = FILES[name], bytes(flipped)
    with pytest.raises(UserError, match="checksum is not the published one"):
        data.main(["get", "fineweb10b", "--shards", "1", "--out", str(out)])
    assert not (out / name).exists() and (out / "fineweb_val_000000.bin").exists()
    del FILES[name]
    with pytest.raises(UserError, match="has no file fineweb_train_000001.bin any more"):
        data.main(["get", "fineweb10b", "--shards", "1", "--out", str(out)])


def test_only_as_many_shards_as_a_run_needs() -> None:
    fineweb = partial(wanted, CORPORA["fineweb10b"], "fineweb10b")
    assert fineweb(tokens=2.5e9)[-1] == "fineweb_train_000025.bin"
    assert len(fineweb(tokens=2.5e9 + 1)) == 1 + 26 and len(fineweb()) == 1 + 103
    assert wanted(CORPORA["tinystories"], "tinystories", tokens=1e6)[0].endswith("valid.txt")
    for tokens, shards in ((1e12, None), (None, 0), (None, 104)):
        with pytest.raises(UserError, match="has 103 training shards"):
            fineweb(tokens=tokens, shards=shards)
    web = partial(wanted, CORPORA["openwebtext"], "openwebtext")
    assert web(documents=100_000) == ["plain_text/train-00000-of-00080.parquet"]
    assert web(documents=500_000)[-1] == "plain_text/train-00004-of-00080.parquet" and len(web()) == 80
    with pytest.raises(UserError, match="is text, whose tokens are not known"):
        web(tokens=1e9)
    with pytest.raises(UserError, match="How many documents"):
        wanted(CORPORA["glue"], "glue", documents=5)
    with pytest.raises(UserError, match="did you mean fineweb10b"):
        data.main(["get", "finweb10b"])


def parquet(texts: list[str], column: str = "text") -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({column: texts}), file)
    return file.getvalue()


SONGS = [f"{i} green bottles hanging on the wall, and {i * i} more; " * 3 for i in range(200)]


def test_text_in_folders_is_fetched_and_used(hub: Path) -> None:
    """OpenWebText's real names: files in a folder, one of them enough."""
    FILES["train-00000-of-00080.parquet"] = parquet(SONGS)
    assert data.main(["get", "openwebtext", "--documents", "100"]) == 0
    assert {asked for how, asked in ASKED if how == "HEAD"} == {"train-00000-of-00080.parquet"}
    assert list(documents(DataConfig(corpus="openwebtext"))) == SONGS
    assert prepare(DataConfig(corpus="openwebtext", tokenizer="bpe:300", val_tokens=256)).train_tokens > 1000


def test_any_data_set_of_the_hub_by_its_address(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FILES.clear()
    FILES.update({"a.parquet": parquet(SONGS[:100]), "b.parquet": parquet(SONGS[100:]), "README.md.png": b"x"})
    assert data.main(["get", "hf://datasets/some/texts@v1.0", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == ["data/a.parquet", "data/b.parquet"] and any("v1.0" in path for path in PATHS)
    assert list(documents(DataConfig(corpus=told["corpus"]))) == SONGS
    assert data.main(["get", "hf://datasets/some/texts/data", "--shards", "1", "--out", str(hub / "one")]) == 0
    assert [p.name for p in (hub / "one").rglob("*.parquet")] == ["a.parquet"]
    for address, words in (
        ("hf://datasets/some/nothing", "no data set some/nothing at main"),
        ("hf://texts", "is no address of a data set"),
        ("hf://datasets/some/texts/other", "has no files that hpt reads"),
    ):
        with pytest.raises(UserError, match=words):
            data.main(["get", address])


def test_every_source_is_whole() -> None:
    for name, corpus in CORPORA.items():
        assert corpus.files and corpus.licence and corpus.line and corpus.gigabytes > 0, name
        assert all("{" not in file for file in corpus.files) and len(set(corpus.files)) == len(corpus.files)
        assert corpus.text_field in corpus.columns or corpus.tokens_per_shard or name == "glue"
    assert data.main(["get"]) == 0


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = SONGS
    (tmp_path / "songs.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    flags = ["inspect", str(tmp_path / "songs.jsonl"), "--tokenizer", "bpe:300"]
    assert data.main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["vocabulary"] == 300 and any(t.startswith(found["begins"][:100]) for t in texts)
    size = (found["training tokens"] + found["held-out tokens"]) * found["bytes a token"]
    assert size == pytest.approx(len("".join(texts)), rel=0.05)
    assert found["tokens a document"] == pytest.approx((size / found["bytes a token"]) / 200, rel=0.05)
    assert data.main(flags) == 0 and "green bottles" in capsys.readouterr().out


@pytest.mark.parametrize("texts", [["One line."], ["To be, or not to be.\n" * 300], ["a b c"] * 3])
def test_inspect_always_shows_something(tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: list[str]) -> None:
    """However small the corpus is."""
    (tmp_path / "in.txt").write_text("\n<|endoftext|>\n".join(texts))
    assert data.main(["inspect", str(tmp_path / "in.txt"), "--tokenizer", "bpe:300", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["training tokens"] >= 1 and found["held-out tokens"] >= 1
    assert found["examples"] and found["examples"][0]["text"].split("next document\n")[-1][:3] in "".join(texts)


def test_inspect_shows_batches_with_their_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "songs.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in SONGS))
    flags = ["inspect", str(tmp_path / "songs.jsonl"), "--tokenizer", "bpe:300", "--context", "128", "--json"]
    assert data.main(flags) == 0
    for example in json.loads(capsys.readouterr().out)["examples"]:
        parts = example["text"].split("\n----- next document\n")
        assert len(parts) == len(example["documents begin at"]) + 1 and example["in the loss"] == 128
        assert all(any(part in song for song in SONGS) for part in parts)


def test_shards_without_a_vocabulary_are_shown_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--tokenizer gpt2 on ready shards fetches nothing."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setattr("tiktoken.load.read_file", lambda *_: pytest.fail("fetched"))
    for name in ("x_train_000000.bin", "x_val_000000.bin"):
        write_shard(tmp_path / name, [np.arange(3000), [50256], np.arange(3000)], 50257)
    assert data.main(["inspect", str(tmp_path), "--tokenizer", "gpt2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["vocabulary"] == 50257 and "not here" in found["bytes a token"] and found["examples"][0]["text"]


def test_dedup_score_tokenise_inspect_in_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A course's second part, in small."""
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"s{i}", "text": " ".join(f"w{(i * 977 + k * k) % 9973}" for k in range(60))} for i in range(80)]
    rows += [{"id": f"c{i}", "text": rows[i]["text"] + " and"} for i in range(6)]
    Path("corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("truth.jsonl").write_text("".join(json.dumps({"a": f"s{i}", "b": f"c{i}"}) + "\n" for i in range(6)))
    dedup = ["dedup", "corpus.jsonl", "--out", "clean", "--processes", "1"]
    assert data.main([*dedup, "--dry-run", "--json"]) == 0 and not Path("clean").exists()
    assert json.loads(capsys.readouterr().out)["documents"] == pytest.approx(86, rel=0.1)
    assert data.main([*dedup, "--removed", "r.snappy.parquet", "--kept", "k.zstd.parquet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 80
    kinds = [
        pq.read_metadata(name).row_group(0).column(0).compression for name in ("r.snappy.parquet", "k.zstd.parquet")
    ]
    assert kinds == ["SNAPPY", "ZSTD"] and pq.read_metadata("k.zstd.parquet").num_rows == 80
    assert data.main(["score", "r.snappy.parquet", "--pairs", "truth.jsonl", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["recall"] == told["precision"] == 1.0
    flags = [
        "tokenise",
        "clean",
        "--out",
        "shards",
        "--tokenizer",
        "bpe:300",
        "--val-tokens",
        "256",
        "--processes",
        "1",
    ]
    assert data.main([*flags, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    config = DataConfig(corpus="shards", tokenizer="bpe:300", val_tokens=256)
    assert prepare(config).train_tokens == made["train_tokens"] and made["documents"] == 80
    assert (
        data.main(["inspect", "shards", "--tokenizer", "bpe:300"]) == 0 and "next document" in capsys.readouterr().out
    )
    with pytest.raises(UserError, match="were made with --tokenizer bpe:300, not gpt2"):
        prepare(DataConfig(corpus="shards", tokenizer="gpt2"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["dedup", "c.jsonl", "--out", "o", "--threshold", "1.5"], "--threshold 1.5 must be above 0"),
        (["dedup", "c.jsonl", "--out", "o", "--bands", "1", "--rows", "30"], "make candidates of only"),
        (["dedup", "nowhere/", "--out", "o"], "nothing there"),
        (["dedup", "c.jsonl", "--out", "o", "--filter", "gofer"], "did you mean gopher"),
        (["dedup", "c.jsonl", "--out", "o", "--pattern", "("], "not a regular expression"),
        (["dedup", "c.jsonl", "--out", "o", "--against", "no.jsonl"], "there is no such file"),
        (["dedup", "c.jsonl", "--out", "o", "--removed", "r.csv"], "must end in .parquet"),
        (["dedup", "c.jsonl", "--out", "o", "--text-field", "body"], "has no field 'body' but text"),
        (["dedup", "x_train_0.bin", "--out", "o"], "holds token shards"),
        (["tokenise", "c.jsonl", "--out", "o", "--tokenizer", "gpt3"], "did you mean gpt2"),
        (
            ["tokenise", "c.jsonl", "--out", "o", "--tokenizer", "bpe:300", "--val", "no.txt"],
            "no validation file no.txt",
        ),
        (["tokenise", "c.jsonl", "--out", "o", "--tokenizer", "bpe:300", "--val-documents", "3"], "name it with --val"),
        (["tokenise", "c.jsonl", "--out", ".", "--tokenizer", "bpe:300"], "is not empty and was not made by this"),
        (["tokenise", "empty.jsonl", "--out", "o", "--tokenizer", "bpe:300"], "holds no text"),
        (["score", "c.jsonl", "--pairs", "c.jsonl"], "pairs are named by"),
        (["score", "no.parquet", "--pairs", "c.jsonl"], "named by"),
        (["inspect", "c.jsonl", "--context", "0"], "--context must be at least 1"),
    ],
)
def test_one_sentence(argv: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.jsonl").write_text('{"text": "a b c d e f"}\n')
    Path("empty.jsonl").write_text('{"text": ""}\n')
    write_shard(Path("x_train_0.bin"), [np.arange(9)], 300)
    with pytest.raises(UserError) as error:
        data.main(argv)
    assert words in str(error.value) and "\n" not in str(error.value)
