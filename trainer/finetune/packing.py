"""Examples packed whole into rows of the context, by best fit; attention stays inside each."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

from trainer.data.masking import NOTHING

Tokens = Sequence[int] | np.ndarray
Pair = tuple[Tokens, Tokens]
"""Prompt and answer."""


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which of the lengths go into each row: the longest first, each into the fullest row that has room."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    rows, room = list[list[int]](), list[tuple[int, int]]()  # room: (what is left, the row), sorted
    for i in order:
        at = bisect_left(room, (lengths[i], -1))
        if at == len(room):
            rows.append([i])
            left, row = size - lengths[i], len(rows) - 1
        else:
            left, row = room.pop(at)
            rows[row].append(i)
            left -= lengths[i]
        if left > 0:
            insort(room, (left, row))
    return rows


def pack(pairs: Sequence[Pair], context: int, end_of_text: int, seed: int) -> np.ndarray:
    """[n, 3, context]: tokens, targets, numbers of the examples. An answer's tokens are asked for, all others are
    NOTHING. The last token of an example is read by nobody, so it takes no place."""
    rows = best_fit([len(p) + len(a) - 1 for p, a in pairs], context)
    np.random.default_rng(seed).shuffle(rows)
    packed = np.empty((len(rows), 3, context), np.int32)
    packed[:, 0], packed[:, 1] = end_of_text, NOTHING
    for line, members in enumerate(rows):
        start = 0
        packed[line, 2] = len(members)  # padding is a document of its own
        for number, i in enumerate(members):
            prompt, answer = pairs[i]
            whole = np.concatenate([prompt, answer])
            end = start + len(whole) - 1
            packed[line, 0, start:end] = whole[:-1]
            packed[line, 1, end - len(answer) : end] = answer
            packed[line, 2, start:end] = number
            start = end
    return packed
