"""Examples as tokens: end-of-text, the text, the answer, end-of-text. What is too long is shortened at its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tiktoken

from trainer.errors import UserError
from trainer.tasks import Example


@dataclass
class Counts:
    """What happened to the examples."""

    examples: int = 0
    shortened: int = 0
    lost: int = 0
    """Source tokens that were cut."""
    left_out: int = 0
    """Examples whose question and answer alone are longer than the context."""
    answer_tokens: int = 0

    def said(self) -> str:
        text = f"{self.examples:,} examples"
        if self.shortened:
            text += f", {self.shortened:,} shortened by {self.lost / self.shortened:,.0f} source tokens on average"
        if self.left_out:
            text += f", {self.left_out:,} left out (their question and answer alone fill the context)"
        return text


def fit_source(encoding: tiktoken.Encoding, example: Example, room: int) -> tuple[list[int], int]:
    """(tokens of the source, at most `room`; how many were cut). The end is cut, unless `keep` is there: then the
    window around it that begins as early as it can."""
    source = encoding.encode_ordinary(example.source)
    if len(source) <= room:
        return source, 0
    start = 0
    if example.keep is not None:
        end = len(encoding.encode_ordinary(example.source[: example.keep[1]]))
        start = min(max(0, end - room), len(source) - room)
    return source[start : start + room], len(source) - room


def encode(
    encoding: tiktoken.Encoding, example: Example, context: int, counts: Counts
) -> tuple[list[int], list[int]] | None:
    """(prompt, answer) of a training example, together at most context + 1 tokens; None where that cannot be."""
    end = encoding.eot_token
    asked = encoding.encode_ordinary(example.after + example.ask)
    answer = [*encoding.encode_ordinary(" " + example.answers[0]), end]
    room = context + 1 - 1 - len(asked) - len(answer)
    if room < 1:
        counts.left_out += 1
        return None
    source, cut = fit_source(encoding, example, room)
    counts.examples, counts.answer_tokens = counts.examples + 1, counts.answer_tokens + len(answer)
    counts.shortened, counts.lost = counts.shortened + (cut > 0), counts.lost + cut
    return [end, *source, *asked], answer


def prompt(encoding: tiktoken.Encoding, example: Example, room: int, counts: Counts) -> list[int]:
    """What a model reads before it writes, at most `room` tokens. What must not be lost is not known here: the end of
    the source is cut."""
    asked = encoding.encode_ordinary(example.after + example.ask)
    if room - 1 - len(asked) < 1:
        raise UserError(
            f"The context has room for {room} tokens before the answer, and the question {example.after.strip()[:60]!r}"
            f" alone has {len(asked)}: use a model with a longer context, or fewer --max-tokens."
        )
    plain = Example(source=example.source)
    source, cut = fit_source(encoding, plain, room - 1 - len(asked))
    counts.examples, counts.shortened, counts.lost = (
        counts.examples + 1,
        counts.shortened + (cut > 0),
        counts.lost + cut,
    )
    return [encoding.eot_token, *source, *asked]


def encode_all(
    encoding: tiktoken.Encoding, examples: Sequence[Example], context: int, name: str
) -> tuple[list[tuple[np.ndarray, np.ndarray]], Counts]:
    """Of a task's training examples, those that fit, int32 (lists of numbers would be nine times as large). UserError
    where none does."""
    counts = Counts()
    pairs = (encode(encoding, e, context, counts) for e in examples)
    found = [(np.array(p[0], np.int32), np.array(p[1], np.int32)) for p in pairs if p is not None]
    if not found:
        raise UserError(
            f"The context of {context} tokens is too short for any row of {name}: pretrain with a longer model.context."
        )
    return found, counts
