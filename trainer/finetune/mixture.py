"""Several tasks' examples as one corpus: mixed at random with weights, the same for the same seed, packed into rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiktoken

from trainer.data.folders import cache_dir
from trainer.data.packed import write_packed
from trainer.data.tokenizer import NAMED, to_json
from trainer.finetune.encoding import Counts, encode_all
from trainer.finetune.packing import Pair, pack
from trainer.tasks import Example

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Part:
    """A task's share of a mixture."""

    name: str
    train: Sequence[Example]
    validation: Sequence[Example]
    weight: float = 1.0
    """How often each example is there; of a fraction, some are drawn."""


def repeated(count: int, weight: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of examples, each floor(weight) times and a share of them once more."""
    whole, rest = divmod(weight, 1)
    more = rng.permutation(count)[: round(rest * count)]
    return np.concatenate([np.tile(np.arange(count), int(whole)), np.sort(more)])


def mixed(parts: Sequence[tuple[Sequence[Pair], float]], seed: int) -> list[Pair]:
    """The examples of all parts by weight, shuffled."""
    rng = np.random.default_rng(seed)
    places = [(k, int(i)) for k, (pairs, weight) in enumerate(parts) for i in repeated(len(pairs), weight, rng)]
    return [parts[k][0][i] for k, i in (places[j] for j in rng.permutation(len(places)))]


def make_rows(
    parts: Sequence[Part], encoding: tiktoken.Encoding, context: int, seed: int, say: Callable[[str], None]
) -> Path:
    """A folder of packed rows for data.pack=rows, in the cache by its content. `say` hears what became of each task's
    examples."""
    train, val, made = list[tuple[Sequence[Pair], float]](), list[Pair](), dict[str, Mapping[str, object]]()
    for part in parts:
        pairs, counts = encode_all(encoding, part.train, context, part.name)
        held, of_held = encode_all(encoding, part.validation, context, f"{part.name}'s validation split")
        train.append((pairs, part.weight))
        val += held
        made[part.name] = {**_about(counts), "weight": part.weight, "validation": _about(of_held)}
        say(f"{part.name}: {counts.said()}; validation: {of_held.said()}")
    end = encoding.eot_token
    pairs = mixed(train, seed)
    rows, of_val = pack(pairs, context, end, seed), pack(val, context, end, 0)
    used = sum(len(p) + len(a) - 1 for p, a in pairs) / rows[:, 0].size
    say(f"packed into {len(rows):,} rows of {context} tokens, {used:.0%} full; {len(of_val):,} rows held out")
    key = hashlib.blake2b(json.dumps([FORMAT, context, seed, encoding.n_vocab]).encode(), digest_size=12)
    key.update(rows.data)
    key.update(of_val.data)
    named = encoding.name in NAMED
    folder = cache_dir() / "rows" / key.hexdigest()
    about = {
        "vocabulary": encoding.n_vocab, "tokenizer": encoding.name if named else "tokenizer.json", "end_of_text": end,
        "made": {"tasks": made, "seed": seed, "context": context},
    }  # fmt: skip
    if not (folder / "packed.json").is_file():
        write_packed(folder, rows, of_val, about, "" if named else to_json(encoding))
    return folder


def _about(counts: Counts) -> dict[str, object]:
    return dict(vars(counts))
