"""Answers of many prompts at once, greedily or by beams, with the keys and values of what was read kept.

Prompts of a batch have different lengths: each is read from position 0 with padding behind it, which nothing looks at,
and what is written goes to the places of its own text, over the padding.

Shapes: B sequences (of a beam search, prompts x beams), T tokens, E channels of a head.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.architecture.attention import KVCache, slopes
from trainer.architecture.model import Transformer
from trainer.errors import UserError
from trainer.evals.likelihood import silent

BATCH_TOKENS = {"cpu": 8192, "cuda": 262_144}
"""Tokens whose keys and values are kept at a time."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How answers are found."""

    max_tokens: int
    end: int
    beams: int = 1
    """1: the likeliest token each time; more: of so many beginnings the best, by the mean log-probability of its
    tokens."""
    allowed: int | None = None
    """Ids below it may be written."""


@dataclass
class Written:
    answers: list[list[int]] = field(default_factory=list[list[int]])
    """Without the end."""
    tokens: int = 0
    """Written, the ends included."""
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(1e-9, self.seconds)


class _Places:
    """Stands for a layer's cache once prompts are read: what comes goes to each sequence's own place."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self.k, self.v = k, v
        self.at, self.lines, self.end = torch.zeros(0), torch.arange(len(k), device=k.device), 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.k[self.lines, :, self.at] = k[:, :, 0].to(self.k.dtype)
        self.v[self.lines, :, self.at] = v[:, :, 0].to(self.v.dtype)
        return self.k[:, :, : self.end].to(k.dtype), self.v[:, :, : self.end].to(v.dtype)


class Cache:
    """Of B prompts that a causal model has read; `step` reads one more token of each."""

    def __init__(self, model: Transformer, prompts: Sequence[Sequence[int]], room: int) -> None:
        device = model.embedding.weight.device
        self.model = model
        self.at = torch.tensor([len(p) for p in prompts], device=device)
        width = int(self.at.max())
        tokens = torch.tensor([[*p, *[0] * (width - len(p))] for p in prompts], device=device)
        whole = KVCache(model.config, len(prompts), device)
        features = model.features(tokens, cache=whole)
        self.features = features[torch.arange(len(prompts), device=device), self.at - 1]
        held = min(model.config.context, width + room)
        self.layers = [_Places(layer.k[:, :, :held], layer.v[:, :, :held]) for layer in whole.layers]

    def keep(self, lines: Tensor) -> None:
        """Go on with these sequences, some perhaps several times."""
        self.at = self.at[lines]
        self.layers = [_Places(layer.k[lines], layer.v[lines]) for layer in self.layers]

    def step(self, tokens: Tensor) -> Tensor:
        """tokens [B] -> features [B, C]."""
        model, config = self.model, self.model.config
        end = int(self.at.max()) + 1
        for layer in self.layers:
            layer.at, layer.end = self.at, end
        x = model.embedding(tokens[:, None])
        if model.positions is not None:
            x = x + model.positions.weight[self.at][:, None]
        if model.embedding_norm is not None:
            x = model.embedding_norm(x)
        rope = model.rope[:, self.at][:, :, None, None] if config.positions == "rope" else None
        masks = {window: self._mask(window, end) for window in map(config.window, range(config.depth))}
        for i, block in enumerate(model.blocks):
            x = block(x, rope, masks[config.window(i)], self, i * config.layout.count("a"))
        if model.norm is not None:
            x = model.norm(x)
        if model.head_transform is not None:
            x = model.head_transform(x)
        self.at = self.at + 1
        return x[:, 0]

    def _mask(self, window: int, end: int) -> Tensor:
        """[B, 1, 1, end] what is seen; with ALiBi what is added [B, H, 1, end]."""
        distance = self.at[:, None] - torch.arange(end, device=self.at.device)
        seen = (distance >= 0) & (distance < window) if window else distance >= 0
        seen = seen[:, None, None]
        if self.model.config.positions != "alibi":
            return seen
        penalty = -slopes(self.model.config.heads).to(seen.device)[:, None, None] * distance[:, None, None]
        return penalty.masked_fill(~seen, -torch.inf)


@torch.no_grad()
def write(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    how: Decoding,
    progress: Callable[[int, int], None] = silent,
) -> Written:
    """The answer of each prompt, up to the end token, max_tokens or the end of the context. The order of prompts and
    the size of a batch change nothing but rounding."""
    if not model.config.causal:
        raise UserError("This model sees both ways: it writes no answers.")
    if long := [len(p) for p in prompts if not 0 < len(p) < model.config.context]:
        raise UserError(f"A prompt of {long[0]} tokens leaves no room in a context of {model.config.context}.")
    began, order = time.perf_counter(), sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    written, answers, done = Written(), dict[int, list[int]](), 0
    room = BATCH_TOKENS.get(model.embedding.weight.device.type, 8192)
    while order:
        width = min(model.config.context, len(prompts[order[0]]) + how.max_tokens)
        some, order = order[: (rows := max(1, room // (width * how.beams)))], order[rows:]
        batch = [prompts[i] for i in some]
        found, count = (_greedy if how.beams == 1 else _beams)(model, batch, how)
        answers |= dict(zip(some, found, strict=True))
        written.tokens, done = written.tokens + count, done + len(some)
        progress(done, len(prompts))
    written.answers = [answers[i] for i in range(len(prompts))]
    written.seconds = time.perf_counter() - began
    return written


def _greedy(model: Transformer, prompts: Sequence[Sequence[int]], how: Decoding) -> tuple[list[list[int]], int]:
    """Sequences that have ended leave the batch."""
    cache, answers, count = Cache(model, prompts, how.max_tokens), [list[int]() for _ in prompts], 0
    alive, features = list(range(len(prompts))), cache.features
    for number in range(how.max_tokens):
        tokens = model.logits(features, how.allowed).float().argmax(-1)
        count += len(alive)
        drawn, room = tokens.tolist(), (cache.at < model.config.context).tolist()
        for i, token in zip(alive, drawn, strict=True):
            if token != how.end:
                answers[i].append(token)
        stay = [j for j, token in enumerate(drawn) if token != how.end and room[j]]
        if not stay or number + 1 == how.max_tokens:
            break
        if len(stay) < len(alive):
            lines = torch.tensor(stay, device=tokens.device)
            cache.keep(lines)
            tokens, alive = tokens[lines], [alive[j] for j in stay]
        features = cache.step(tokens)
    return answers, count


def _beams(model: Transformer, prompts: Sequence[Sequence[int]], how: Decoding) -> tuple[list[list[int]], int]:
    """Beam search: of each prompt the `beams` likeliest beginnings go on; those that end wait, and the one whose tokens
    have the highest mean log-probability (the end's included) is the answer. A prompt is done when it has `beams` ended
    ones, or no room."""
    beams, device = how.beams, model.embedding.weight.device
    cache, count = Cache(model, prompts, how.max_tokens), 0
    texts: list[list[list[int]]] = [[[]] for _ in prompts]  # of each live prompt, its beginnings
    sums = [[0.0] for _ in prompts]
    ended: list[list[tuple[float, list[int]]]] = [[] for _ in prompts]
    alive, features = list(range(len(prompts))), cache.features
    for _ in range(how.max_tokens):
        odds = model.logits(features, how.allowed).float().log_softmax(-1)
        count += len(odds)
        most = min(2 * beams, odds.shape[1])
        top, ids = (t.tolist() for t in odds.topk(most, -1))
        room, lines, tokens, still, first = (cache.at < model.config.context).tolist(), [], [], list[int](), 0
        for i in alive:
            of_text = len(texts[i])
            options = [
                (sums[i][b] + top[first + b][k], b, ids[first + b][k]) for b in range(of_text) for k in range(most)
            ]
            before, texts[i], sums[i], from_lines = texts[i], [], [], list[int]()
            for total, b, token in sorted(options, key=lambda option: -option[0]):
                if len(texts[i]) == beams:
                    break
                if token == how.end:
                    ended[i].append((total / (len(before[b]) + 1), before[b]))
                    continue
                texts[i].append([*before[b], token])
                sums[i].append(total)
                from_lines.append(first + b)
            if len(ended[i]) < beams and room[first]:
                still.append(i)
                lines += from_lines
                tokens += [text[-1] for text in texts[i]]
            first += of_text
        alive = still
        if not alive:
            break
        cache.keep(torch.tensor(lines, device=device))
        features = cache.step(torch.tensor(tokens, device=device))
    return [_best(ended[i], texts[i], sums[i]) for i in range(len(prompts))], count


def _best(ended: list[tuple[float, list[int]]], texts: list[list[int]], sums: list[float]) -> list[int]:
    """Those that ended, and those that would have gone on, by the mean log-probability of their tokens."""
    open_ones = [(total / max(1, len(text)), text) for total, text in zip(sums, texts, strict=True)]
    return max([*ended, *open_ones], key=lambda option: option[0], default=(-math.inf, []))[1]
