"""C4's rules for pages (Raffel et al. 2020, arXiv 1910.10683, section 2.2). Its rules for lines decide here which lines
count, and no line is changed."""

from __future__ import annotations

import re

SENTENCE = re.compile(r"[.!?][\"'”’)]*(?:\s|$)")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def c4(text: str) -> str:
    lower = text.lower()
    if "lorem ipsum" in lower:
        return "lorem ipsum"
    if "{" in text:
        return "a curly bracket"
    sentences = 0
    for line in lower.splitlines():
        if len(line.split()) >= 3 and "javascript" not in line and not any(phrase in line for phrase in POLICY):
            sentences += len(SENTENCE.findall(line))
    return "" if sentences >= 5 else "fewer than 5 sentences"
