"""Tokenizers leave for transformers and come from there with the same ids, or are not taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken

from trainer.data.tokenizer import load_tokenizer, train_tokenizer
from trainer.exchange.plain import tokenizer_name
from trainer.exchange.tokenizer_json import read, written

TEXT = ["a sentence to train on, a second one; don't stop 123 times\n\n  again ", "été naïve 😀 ", "x" * 40] * 5
UNSEEN = ["unseen wörds\t\t42", "a" * 100, "The fox's 1,234567 JUMPS, don'T\n\n\tover   dogs.  \n", "日本語と русский"]


@pytest.fixture
def trained(tmp_path: Path) -> tiktoken.Encoding:
    train_tokenizer(TEXT, 300, tmp_path / "ours.json")
    return load_tokenizer(str(tmp_path / "ours.json"))


def folder_of(encoding: tiktoken.Encoding, folder: Path) -> Path:
    (folder / "tokenizer.json").write_text(written(encoding), "utf-8")
    return folder


def test_transformers_tokenises_alike(trained: tiktoken.Encoding, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    theirs, back = AutoTokenizer.from_pretrained(folder_of(trained, tmp_path)), read(tmp_path)
    assert back is not None and tokenizer_name(back) == "bpe:300"
    for text in [*TEXT, *UNSEEN]:
        assert theirs.encode(text) == trained.encode_ordinary(text) == back.encode_ordinary(text)
        assert theirs.decode(theirs.encode(text)) == text
    assert theirs.eos_token_id == trained.eot_token == back.eot_token


@pytest.mark.parametrize(("name", "end"), [("gpt2", 50256), ("cl100k_base", 100257)])
def test_published_vocabularies_keep_their_ids(
    name: str, end: int, shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ranks are all that tiktoken keeps of the merges; cl100k_base splits digits by threes and leaves ids out."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken"))
    from tokenizers import Tokenizer

    encoding = load_tokenizer(name)
    theirs = Tokenizer.from_file(str(folder_of(encoding, tmp_path) / "tokenizer.json"))
    back = read(tmp_path)
    assert back is not None
    for text in [*TEXT, *UNSEEN]:
        assert theirs.encode(text).ids == encoding.encode_ordinary(text) == back.encode_ordinary(text)
    assert theirs.token_to_id("<|endoftext|>") == end == back.eot_token


def test_gpt2s_own_folder_is_recognised(shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As OpenAI's is published: ByteLevel splits by itself, end of text is in the vocabulary too."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(shared / "tiktoken"))
    from tokenizers import Tokenizer, models, pre_tokenizers

    names = [hashlib.sha1(f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{file}".encode())
             .hexdigest() for file in ("encoder.json", "vocab.bpe")]  # fmt: skip
    vocabulary = json.loads((shared / "tiktoken" / names[0]).read_text("utf-8"))
    lines = (shared / "tiktoken" / names[1]).read_text("utf-8").splitlines()[1:]
    merges = [(first, second) for first, second in (line.split(" ") for line in lines if line)]
    published = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    published.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    published.add_special_tokens(["<|endoftext|>"])
    published.save(str(tmp_path / "tokenizer.json"))
    found = read(tmp_path)
    assert found is not None and tokenizer_name(found) == "gpt2" and found.eot_token == 50256


def test_another_name_for_the_end_of_text_is_understood(trained: tiktoken.Encoding, tmp_path: Path) -> None:
    content = written(trained).replace("<|endoftext|>", "</s>")
    (tmp_path / "tokenizer.json").write_text(content, "utf-8")
    assert read(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    found = read(tmp_path)
    assert found is not None and found.eot_token == trained.eot_token


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v["model"]["merges"].reverse(),
        lambda v: v["model"].update(type="WordPiece"),
        lambda v: v.update(normalizer={"type": "Lowercase"}),
        lambda v: v.update(pre_tokenizer={"type": "Whitespace"}),
        lambda v: v.update(added_tokens=[]),
        lambda v: v["model"]["vocab"].pop("!"),
    ],
)
def test_a_tokenizer_with_other_ids_is_not_taken(
    damage: Callable[[dict], None], trained: tiktoken.Encoding, tmp_path: Path
) -> None:
    values = json.loads(written(trained))
    damage(values)
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    assert read(tmp_path) is None
