"""FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3.6), with datatrove's numbers."""

from __future__ import annotations

from collections import Counter

ENDS = tuple(".!?:;\"'”’)…。！？")


def fineweb(text: str) -> str:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines:
        return "no lines"
    if sum(line.endswith(ENDS) for line in lines) / len(lines) < 0.12:
        return "under 12 % of lines end in punctuation"
    if sum(len(line) <= 30 for line in lines) / len(lines) > 0.67:
        return "over 67 % of lines have 30 characters or fewer"
    repeated = sum(len(line) * (count - 1) for line, count in Counter(lines).items())
    if repeated / len(text.replace("\n", "")) > 0.01:
        return "over 1 % of characters in repeated lines"
    if text.count("\n") / max(1, len(text.split())) > 0.3:
        return "over 0.3 line breaks a word"
    return ""
