"""Byte-level BPE: trained by `tokenizers`, run by tiktoken, which gives the same ids several times faster."""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import tiktoken
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from trainer.errors import UserError
from trainer.files import write_atomic

END_OF_TEXT = "<|endoftext|>"
MASKS = ("<|mask|>", "<mask>", "[MASK]")
"""What hides a token of a masked language model: ours, RoBERTa's and BERT's."""
# GPT-2's splitting (Radford et al. 2019, encoder.py).
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
ENDS = {
    "gpt2": (50257, 50256),
    "r50k_base": (50257, 50256),
    "p50k_base": (50281, 50256),
    "cl100k_base": (100277, 100257),
    "o200k_base": (200019, 199999),
}
"""Ids of the vocabulary, and that of end-of-text."""
NAMED = tuple(ENDS)
ADDRESS = "https://openaipublic.blob.core.windows.net"  # tiktoken's, in its openai_public.py


def load_tokenizer(spec: str) -> tiktoken.Encoding:
    """By tiktoken's name, or from a file that `train_tokenizer` wrote."""
    if spec.endswith(".json"):
        try:
            return from_json(Path(spec).read_text("utf-8"), Path(spec).stem)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{spec} is not a tokenizer file of hpt ({type(error).__name__}): give a run's.") from None
    if spec not in NAMED:
        near = difflib.get_close_matches(spec, NAMED, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose bpe:SIZE or one of {', '.join(NAMED)}."
        raise UserError(f"There is no tokenizer called {spec!r}: {hint}")
    try:
        return tiktoken.get_encoding(spec)
    except Exception as error:  # whatever the network and the cache do
        raise UserError(
            f"The vocabulary of tokenizer {spec!r} cannot be fetched ({type(error).__name__}): connect once, point "
            "TIKTOKEN_CACHE_DIR at a folder that has it, or use --tokenizer bpe:SIZE, which needs no network."
        ) from None


def ids_of(spec: str) -> tuple[int, int, tiktoken.Encoding | None]:
    """Vocabulary and end-of-text of a named tokenizer, and it itself where that needs no network."""
    if spec in ENDS and not _here(spec):
        return (*ENDS[spec], None)
    encoding = load_tokenizer(spec)
    return encoding.n_vocab, encoding.encode_single_token(END_OF_TEXT), encoding


def _here(spec: str) -> bool:
    """Whether tiktoken has it in its cache, which names files by the SHA-1 of their addresses."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    cache = Path(folder or Path(tempfile.gettempdir()) / "data-gym-cache")
    names = ("gpt-2/encodings/main/vocab.bpe", "gpt-2/encodings/main/encoder.json") if spec == "gpt2" else (
        f"encodings/{spec}.tiktoken",
    )  # fmt: skip
    return all((cache / hashlib.sha1(f"{ADDRESS}/{name}".encode()).hexdigest()).is_file() for name in names)


def from_json(text: str, name: str) -> tiktoken.Encoding:
    """The encoding in a tokenizer file; KeyError, ValueError ... when `text` is none."""
    values = json.loads(text)
    return tiktoken.Encoding(
        name=name,
        pat_str=values["pattern"],
        mergeable_ranks={base64.b64decode(token): rank for token, rank in values["ranks"].items()},
        special_tokens=values["special_tokens"],
    )


def to_json(encoding: tiktoken.Encoding) -> str:
    """The inverse of `from_json`: a splitting pattern, tokens in base64 by rank, special tokens."""
    ranks = sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1])
    written = {base64.b64encode(token).decode(): rank for token, rank in ranks}
    return json.dumps({"pattern": encoding._pat_str, "ranks": written, "special_tokens": encoding._special_tokens})


def with_mask(encoding: tiktoken.Encoding) -> tiktoken.Encoding:
    """The encoding of a masked language model: with the mask token, behind all other ids where it has none."""
    if any(name in encoding._special_tokens for name in MASKS):
        return encoding
    return tiktoken.Encoding(
        name=encoding.name,
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens={**encoding._special_tokens, MASKS[0]: encoding.n_vocab},
    )


def mask_id(encoding: tiktoken.Encoding) -> int:
    return next(
        (encoding._special_tokens[name] for name in MASKS if name in encoding._special_tokens), encoding.n_vocab
    )


def bpe_size(spec: str) -> int | None:
    """The size in `bpe:SIZE`; None for another spec."""
    if not spec.startswith("bpe:"):
        return None
    size = spec.removeprefix("bpe:")
    if not size.isdigit() or int(size) < 257:
        raise UserError(
            f"--tokenizer {spec}: the size must be a number from 257 (256 bytes and end-of-text), as in bpe:4096."
        )
    return int(size)


def train_tokenizer(texts: Iterable[str], size: int, path: Path) -> tokenizers.Tokenizer:
    """Train a vocabulary of `size` ids, end-of-text (the last) included, and write it for `load_tokenizer`."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size - 1, initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator(texts, trainer)
    byte_of = {character: byte for byte, character in byte_characters().items()}
    ranks = {
        base64.b64encode(bytes(byte_of[c] for c in token)).decode(): rank
        for token, rank in sorted(trained.get_vocab().items(), key=lambda item: item[1])
    }
    values = {"pattern": PATTERN, "ranks": ranks, "special_tokens": {END_OF_TEXT: len(ranks)}}
    write_atomic(path, json.dumps(values).encode())
    return trained


def byte_characters() -> dict[int, str]:
    """The printable character that byte-level BPE writes for each byte (GPT-2's encoder.py: bytes_to_unicode)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(others)}}
