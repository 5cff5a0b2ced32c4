"""Gopher's rules of quality (Rae et al. 2021, arXiv 2112.11446, A.1.1), with datatrove's numbers."""

from __future__ import annotations

COMMON = {"the", "be", "to", "of", "and", "that", "have", "with"}
BULLETS = ("•", "-", "*", "‣", "●")


def gopher(text: str) -> str:
    """Prose of 50 to 100,000 words of usual length, with few symbols, bullets and cut-off lines. English only, by its
    last rule: two of eight common words must occur."""
    words = text.split()
    plain = [bare for word in words if (bare := word.strip(".,;:!?\"'()[]{}<>*_-“”‘’…—–"))]
    count = len(plain)
    if not 50 <= count <= 100_000:
        return "under 50 words" if count < 50 else "over 100,000 words"
    if not 3 <= sum(map(len, plain)) / count <= 10:
        return "mean length of words not 3 to 10"
    if max(text.count("#"), text.count("...") + text.count("…")) / count > 0.1:
        return "a # or ellipsis for every 10 words"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(line.startswith(BULLETS) for line in lines) / len(lines) > 0.9:
        return "over 90 % of lines are bullets"
    if sum(line.endswith(("...", "…")) for line in lines) / len(lines) > 0.3:
        return "over 30 % of lines end in an ellipsis"
    if sum(any(c.isalpha() for c in word) for word in words) / len(words) < 0.8:
        return "under 80 % of words have a letter"
    if len(COMMON & {word.lower() for word in plain}) < 2:
        return "fewer than 2 of the commonest words"
    return ""
