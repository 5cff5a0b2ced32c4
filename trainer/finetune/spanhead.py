"""A head that marks where an answer begins and ends in a text, as BERT's does (arXiv 1810.04805, section 4.2).

A row is end-of-text, question, end-of-text, a window of the text, end-of-text. The question comes first, so that a
causal model reads the text knowing it; the last token stands for "no answer here", since it has seen everything in
either kind of model (BERT takes the first, which sees nothing in a causal one).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tiktoken
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.evals.score import Score
from trainer.finetune.encoding import Counts
from trainer.finetune.reading import Reader, features
from trainer.tasks import Example
from trainer.tasks.squad import NONE

LONGEST = 30
"""Tokens of an answer, at most (BERT's)."""


@dataclass(frozen=True)
class Window:
    """A row, and what its places are."""

    tokens: list[int]
    example: int
    first: int
    """Place of the window's first token of text."""
    bounds: np.ndarray
    """[count + 1] byte of the text where each token of the window begins, and where the last one ends."""

    @property
    def none(self) -> int:
        """The place that stands for no answer."""
        return len(self.tokens) - 1

    def places(self, begin: int, end: int) -> tuple[int, int]:
        """Of the first and last token of the bytes begin ... end; `none` twice where they are not all here."""
        if begin < self.bounds[0] or end > self.bounds[-1]:
            return self.none, self.none
        start = int(np.searchsorted(self.bounds, begin, side="right")) - 1
        stop = int(np.searchsorted(self.bounds, end, side="left")) - 1
        return self.first + start, self.first + max(start, stop)


def windows(encoding: tiktoken.Encoding, examples: Sequence[Example], length: int, counts: Counts) -> Iterator[Window]:
    """Each example's, half a window apart: no text is lost. A question is cut to half of `length`."""
    end = encoding.eot_token
    for number, example in enumerate(examples):
        question, text = (encoding.encode_ordinary(part) for part in (example.after.strip(), example.source))
        kept = question[: max(1, length // 2 - 3)]
        counts.examples, counts.shortened = counts.examples + 1, counts.shortened + (len(kept) < len(question))
        counts.lost += len(question) - len(kept)
        ends = np.cumsum([0, *(len(piece) for piece in encoding.decode_tokens_bytes(text))])
        room, first = length - 3 - len(kept), 2 + len(kept)
        for start in range(0, max(1, len(text) - room // 2), max(1, room // 2)):
            some = text[start : start + room]
            yield Window([end, *kept, end, *some, end], number, first, ends[start : start + len(some) + 1])


class Spans(Reader):
    """Cross-entropy of the begin's and the end's place; an answer is the likeliest pair over an example's windows."""

    def make_head(self) -> nn.Module:
        head = nn.Linear(self.model.config.width, 2)
        nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(self.seed))
        nn.init.zeros_(head.bias)
        return head

    def prepare(self, examples: Sequence[Example]) -> list[list[int]]:
        found, right = list(windows(self.encoding, examples, self.length, self.counts)), list[tuple[int, int]]()
        for window in found:
            example = examples[window.example]
            begin, end = (len(example.source[:at].encode()) for at in example.keep or (0, 0))
            right.append(window.places(begin, end) if example.keep else (window.none, window.none))
        self.right = np.array(right)
        self.firsts = np.array([window.first for window in found])
        return [window.tokens for window in found]

    def loss(self, rows: Sequence[list[int]], members: np.ndarray) -> Tensor:
        logits = self._logits(rows, self.firsts[members])
        right = torch.tensor(self.right[members], device=self.device)
        return F.cross_entropy(logits.flatten(0, 1), right.T.flatten())

    def _logits(self, rows: Sequence[list[int]], firsts: np.ndarray) -> Tensor:
        """[2, B, T] of begin and end; -inf where no answer can be: in the question and in padding."""
        with self.autocast:
            read, lengths = features(self.model, rows, self.encoding.eot_token, self.device)
            logits = self.head(read).float().permute(2, 0, 1)
        places = torch.arange(logits.shape[2], device=self.device)
        begins = torch.tensor(firsts, device=self.device)[:, None]
        return logits.masked_fill((places < begins) | (places >= lengths[:, None]), -torch.inf)

    def score(self, examples: Sequence[Example]) -> list[Score]:
        return self.task.texts(examples, self.predict(examples))

    def predict(self, examples: Sequence[Example]) -> list[str]:
        """The answers; "unanswerable" where that is likelier, of a task that has such questions."""
        found = list(windows(self.encoding, examples, self.length, Counts()))
        firsts = {id(window.tokens): window.first for window in found}

        def read(rows: Sequence[list[int]]) -> list[np.ndarray]:
            logits = self._logits(rows, np.array([firsts[id(row)] for row in rows])).cpu().numpy()
            return [logits[:, i, : len(row)] for i, row in enumerate(rows)]

        best = [(-np.inf, 0, 0)] * len(examples)
        nowhere = np.full(len(examples), np.inf)
        for window, logits in zip(found, self.in_batches([w.tokens for w in found], read), strict=True):
            odds, k = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), window.example
            nowhere[k] = min(nowhere[k], odds[:, window.none].sum())
            value, start, stop = likeliest(*odds[:, window.first : window.none])
            best[k] = max(best[k], (value, int(window.bounds[start]), int(window.bounds[stop + 1])))
        texts = [
            e.source.encode()[a:b].decode("utf-8", "ignore").strip()
            for e, (_, a, b) in zip(examples, best, strict=True)
        ]
        if not self.task.may_be_none:
            return texts
        return [text if value > none else NONE for text, (value, *_), none in zip(texts, best, nowhere, strict=True)]


def likeliest(begin: np.ndarray, end: np.ndarray) -> tuple[float, int, int]:
    """(log-probability, first, last) of the best pair at most LONGEST tokens long; -inf where there is no token."""
    if not len(begin):
        return -np.inf, 0, -1
    pairs = begin[:, None] + end[None, :]
    pairs[~(np.tri(len(end), k=0, dtype=bool).T & np.tri(len(end), k=LONGEST - 1, dtype=bool))] = -np.inf
    start, stop = np.unravel_index(int(pairs.argmax()), pairs.shape)
    return float(pairs[start, stop]), int(start), int(stop)
