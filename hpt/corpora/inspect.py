"""`hpt.data inspect`: what is in a corpus, as a model sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tiktoken
import tyro
from rich.console import Console

from hpt.console import cli
from hpt.reports.numbers import short
from trainer.config import DataConfig
from trainer.data import Batches, Prepared, prepare
from trainer.data.shards import read_shard
from trainer.data.sources import CORPORA
from trainer.data.tokenizer import ids_of, load_tokenizer
from trainer.errors import UserError

SHOWN = 600  # characters of an example


@dataclass(frozen=True, kw_only=True)
class Inspect(cli.Common):
    """Prepare a corpus as a search would, say what is in it, and show what a model is given."""

    corpus: tyro.conf.Positional[str] = "python"
    """As --corpus of hpt.search."""
    tokenizer: str | None = None
    """As --tokenizer; default: a public corpus's own, else bpe:4096."""
    text_field: str = "text"
    val: str = ""
    val_documents: int = 0
    context: int = 256
    """Tokens a sequence of the examples has."""
    examples: int = 2
    """Sequences of the first batch that are shown."""
    seed: int = 0
    """Of the run whose first batch it is."""


def run(config: Inspect, console: Console) -> int:
    if config.context < 1 or config.examples < 0:
        raise UserError("--context must be at least 1, and --examples not negative.")
    known = CORPORA[config.corpus].tokenizer if config.corpus in CORPORA else "bpe:4096"
    data = DataConfig(
        corpus=config.corpus, tokenizer=config.tokenizer or known, text_field=config.text_field, val=config.val,
        val_documents=config.val_documents,
    )  # fmt: skip
    with console.status("preparing data") as status:
        prepared = prepare(data, enough=False, say=status.update)
    encoding = load_tokenizer(prepared.tokenizer) if prepared.tokenizer.endswith(".json") else ids_of(data.tokenizer)[2]
    found = facts(prepared)
    for name, value in found.items():
        console.print(f"{name:<18} {value:,}" if isinstance(value, int) else f"{name:<18} {value}", markup=False)
    tokens = next((shard for path in prepared.train if len(shard := read_shard(path))), np.zeros(0, np.uint16))
    beginning = decoded(tokens[:80], prepared, encoding, mark="")
    console.print(f"{'begins':<18} {beginning[:200]!r}", markup=False)
    shown = examples(prepared, encoding, config)
    for number, example in enumerate(shown):
        bounds = ", ".join(map(str, example["documents begin at"])) or "none: it is in the middle of one"
        told = f"{example['tokens']} tokens, of which {example['in the loss']} count in the loss"
        console.print(f"\nsequence {number} of the first batch: {told}; documents begin at {bounds}", markup=False)
        console.print(example["text"][:SHOWN], markup=False)
    config.answer({**found, "begins": beginning, "examples": shown}, f"{prepared.train_tokens:,} training tokens")
    return 0


def facts(prepared: Prepared) -> dict[str, Any]:
    head = read_shard(prepared.train[0])[: 2**22]
    ends = float((head == prepared.end_of_text).mean()) if len(head) else 0.0
    known = not math.isnan(prepared.bytes_per_token)
    return {
        "training tokens": prepared.train_tokens,
        "held-out tokens": prepared.val_tokens,
        "shards": len(prepared.train) + len(prepared.val),
        "vocabulary": prepared.vocabulary,
        "bytes a token": round(prepared.bytes_per_token, 3) if known else "unknown: the vocabulary is not here",
        "tokens a document": round(1 / ends, 1) if ends else None,
        "would feed": f"{short(prepared.train_tokens)} tokens: 20 for each of "
        f"{short(prepared.train_tokens / 20)} parameters",
    }


def examples(prepared: Prepared, encoding: tiktoken.Encoding | None, config: Inspect) -> list[dict[str, Any]]:
    """Sequences of the first batch; shorter ones where the corpus has no such long stretch."""
    longest = max((len(read_shard(path)) for path in prepared.train), default=0)
    context = min(config.context, longest - 1)
    if context < 1:
        return []
    batches = Batches(prepared.train, context, config.seed)
    shown = []
    for row in batches.sequences(0, min(config.examples, batches.windows)):
        shown.append({
            "tokens": context,
            "documents begin at": np.flatnonzero(row[:-1] == prepared.end_of_text).tolist(),
            "in the loss": context,  # every position predicts the next token; nothing is padded
            "text": decoded(row[:-1], prepared, encoding),
        })  # fmt: skip
    return shown


def decoded(
    tokens: np.ndarray, prepared: Prepared, encoding: tiktoken.Encoding | None, mark: str = "\n----- next document\n"
) -> str:
    """Text with `mark` for each end-of-text; the ids, where there is no vocabulary."""
    if encoding is None:
        return " ".join(map(str, tokens.tolist()))
    made, held = "", list[int]()
    for token in [*tokens.tolist(), prepared.end_of_text]:
        if token != prepared.end_of_text:
            held.append(token)
            continue
        made += encoding.decode(held) + mark
        held = []
    return made.removesuffix(mark) if mark else made
