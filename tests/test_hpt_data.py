"""Fetching public corpora from a hub on loopback; looking into a corpus."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from hpt import data
from trainer.config import DataConfig
from trainer.data import check_enough, prepare
from trainer.data.corpus import documents
from trainer.data.shards import read_shard, write_shard
from trainer.data.sources import wanted
from trainer.errors import UserError

FILES: dict[str, bytes] = {}
ASKED: list[tuple[str, str]] = []
CUT: list[int] = []
"""Bytes after which the next bodies end, with no word that they do."""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's protocol as fetching a file needs: metadata in the headers, ranges."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        name = self.path.rpartition("/")[2]
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
    assert wanted("fineweb10b", 2.5e9, None)[-1] == "fineweb_train_000025.bin"
    assert len(wanted("fineweb10b", 2.5e9 + 1, None)) == 1 + 26
    assert len(wanted("fineweb10b", None, None)) == 1 + 103
    assert wanted("tinystories", 1e6, None)[0].endswith("valid.txt")
    for tokens, shards in ((1e12, None), (None, 0), (None, 104)):
        with pytest.raises(UserError, match="has 103 training shards"):
            wanted("fineweb10b", tokens, shards)
    with pytest.raises(UserError, match="did you mean fineweb10b"):
        data.main(["get", "finweb10b"])


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"{i} green bottles hanging on the wall, and {i * i} more; " * 3 for i in range(200)]
    (tmp_path / "songs.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    flags = ["inspect", str(tmp_path / "songs.jsonl"), "--tokenizer", "bpe:300"]
    assert data.main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["vocabulary"] == 300 and any(t.startswith(found["begins"][:100]) for t in texts)
    size = (found["training tokens"] + found["held-out tokens"]) * found["bytes a token"]
    assert size == pytest.approx(len("".join(texts)), rel=0.05)
    assert found["tokens a document"] == pytest.approx((size / found["bytes a token"]) / 200, rel=0.05)
    assert data.main(flags) == 0 and "green bottles" in capsys.readouterr().out
