"""Documents with near-duplicates planted among them, so that what a deduplication finds can be judged."""

from __future__ import annotations

import random

from trainer.config import DataConfig
from trainer.data.corpus import documents

WORDS = 190  # a document: about 1.2 kB
PHRASE = 12  # words in a row that are taken from the source
SHARE = 0.15  # of the documents are edited copies of another
MOST_EDITED = 0.10  # of a copy's words


def planted(count: int, seed: int = 0, source: list[str] | None = None) -> list[str]:
    """`count` documents, of which SHARE are copies with 0 to MOST_EDITED of the words replaced, dropped or doubled.

    source: whole documents to use, as far as they reach; then, and without any, documents are made of phrases of the
    standard library, in English and Python.
    """
    rng = random.Random(seed)
    words = " ".join(documents(DataConfig())).split() if source is None else " ".join(source[:20_000]).split()
    originals = list(source or [])[: round(count * (1 - SHARE))]
    while len(originals) < round(count * (1 - SHARE)):
        size = int(WORDS * rng.uniform(0.3, 1.7))
        starts = (rng.randrange(len(words) - PHRASE) for _ in range(0, size, PHRASE))
        originals.append(" ".join(" ".join(words[at : at + PHRASE]) for at in starts))
    copies = [
        edited(rng.choice(originals), rng.uniform(0, MOST_EDITED), rng, words) for _ in range(count - len(originals))
    ]
    made = originals + copies
    rng.shuffle(made)
    return made


def edited(text: str, share: float, rng: random.Random, words: list[str]) -> str:
    made = list[str]()
    for word in text.split(" "):
        if rng.random() >= share:
            made.append(word)
            continue
        kind = rng.randrange(3)
        made += [[rng.choice(words)], [], [word, word]][kind]
    return " ".join(made)
