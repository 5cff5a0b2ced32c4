"""Gopher's rules of repetition (Rae et al. 2021, arXiv 2112.11446, table A1)."""

from __future__ import annotations

from collections import Counter

TOP = {2: 0.20, 3: 0.18, 4: 0.16}
"""Share of the characters that the commonest n-gram of words may make up."""
REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Share of the characters in n-grams that occur before."""


def repetition(text: str) -> str:
    for name, parts in (("paragraphs", text.split("\n\n")), ("lines", text.split("\n"))):
        parts = [part.strip() for part in parts if part.strip()]
        extra = Counter(parts)
        extra.subtract(set(parts))
        extra = +extra
        if parts and extra.total() / len(parts) > 0.3:
            return f"over 30 % repeated {name}"
        if sum(len(part) * count for part, count in extra.items()) > 0.2 * len(text):
            return f"over 20 % of characters in repeated {name}"
    words = text.split()
    size = max(1, sum(map(len, words)))
    for n, limit in TOP.items():
        grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        if grams:
            gram, count = grams.most_common(1)[0]
            if count > 1 and count * sum(map(len, gram)) / size > limit:
                return f"the commonest {n} words in a row make up over {limit:.0%}"
    for n, limit in REPEATED.items():
        if _repeated(words, n) / size > limit:
            return f"over {limit:.0%} in repeated runs of {n} words"
    return ""


def _repeated(words: list[str], n: int) -> int:
    """Characters of runs of n words that have been there, each counted once."""
    seen: set[tuple[str, ...]] = set()
    total = i = 0
    while i + n <= len(words):
        gram = tuple(words[i : i + n])
        if gram in seen:
            total += sum(map(len, gram))
            i += n
        else:
            seen.add(gram)
            i += 1
    return total
