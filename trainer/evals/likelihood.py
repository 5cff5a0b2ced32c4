"""Log-likelihoods of continuations, by the method that EleutherAI's lm-evaluation-harness publishes.

A (context, continuation) pair is encoded whole; what lies behind the context's own tokens is the continuation. The
last context + 1 tokens are kept, and the model reads all of them but the last.

A masked language model has no such likelihood. Its pseudo-log-likelihood (Salazar et al., arXiv 1910.14659) is the sum
over the continuation's tokens of the log-probability of each where it alone is masked: a forward pass a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tiktoken
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.architecture.model import Transformer
from trainer.data.tokenizer import mask_id
from trainer.errors import UserError

BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
LOGIT_BYTES = {"cpu": 4 * 2**20, "cuda": 2**30}  # fp32, held at a time


def silent(done: int, total: int) -> None:
    """A progress callback that says nothing."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A model and its tokenizer, asked for likelihoods."""

    model: Transformer
    encoding: tiktoken.Encoding
    batch_tokens: int | None = None
    """Tokens a forward pass, padding included; a longer sequence goes alone. None: what suits the device."""
    progress: Callable[[int, int], None] = field(default=silent)
    """Called after each batch with the tokens done and the tokens of all."""

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    def log_likelihoods(self, pairs: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Of n (context, continuation) pairs: summed log-probabilities [n] in nats, and [n] whether the continuation
        is what greedy decoding would give."""
        return self.of_tokens([encode_pair(self.encoding, *pair) for pair in pairs])

    @torch.no_grad()
    def of_tokens(self, pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[np.ndarray, np.ndarray]:
        """The same of token ids. The order of the pairs and the size of a batch change nothing but rounding."""
        if not self.model.config.causal:
            return self._pseudo(pairs)
        windows = [(i, *w) for i, pair in enumerate(pairs) for w in cut(*pair, self.model.config.context)]
        windows.sort(key=lambda w: -len(w[1]))  # the longest first: if memory runs out, at once
        total, done = sum(len(tokens) - 1 for _, tokens, _ in windows), 0
        sums, greedy = np.zeros(len(pairs)), np.ones(len(pairs), bool)
        while windows:
            width = len(windows[0][1]) - 1
            rows = max(1, (self.batch_tokens or BATCH_TOKENS.get(self.device.type, 4096)) // width)
            batch, windows = windows[:rows], windows[rows:]
            for (i, _, _), (value, exact) in zip(batch, self._score(batch, width), strict=True):
                sums[i] += value
                greedy[i] &= exact
            done += sum(len(tokens) - 1 for _, tokens, _ in batch)
            self.progress(done, total)
        if not np.isfinite(sums).all():
            raise UserError("The model's probabilities are not finite: its training diverged; use another checkpoint.")
        return sums, greedy

    def _pseudo(self, pairs: Sequence[tuple[list[int], list[int]]]) -> tuple[np.ndarray, np.ndarray]:
        """As `of_tokens`, by masks. Passes hold sequences of one length: a padding would be seen."""
        mask, asked = mask_id(self.encoding), list[tuple[int, list[int], int]]()
        if mask >= self.model.config.vocabulary:
            raise UserError("This model has no mask token: its vocabulary is the tokenizer's alone.")
        for i, pair in enumerate(pairs):
            for tokens, count in cut(*pair, self.model.config.context - 1):
                asked += [(i, tokens, at) for at in range(len(tokens) - count, len(tokens))]
        asked.sort(key=lambda item: -len(item[1]))
        total, done = sum(len(tokens) for _, tokens, _ in asked), 0
        sums, greedy = np.zeros(len(pairs)), np.ones(len(pairs), bool)
        while asked:
            width = len(asked[0][1])
            rows = max(1, (self.batch_tokens or BATCH_TOKENS.get(self.device.type, 4096)) // width)
            batch = [item for item in asked[:rows] if len(item[1]) == width]
            asked = asked[len(batch) :]
            tokens, places = np.array([t for _, t, _ in batch]), np.array([at for *_, at in batch])
            lines = np.arange(len(batch))
            targets, asked_here = tokens[lines, places].copy(), np.zeros(tokens.shape, bool)
            tokens[lines, places], asked_here[lines, places] = mask, True
            values, exact = self.probabilities(tokens, asked_here, targets)
            for (i, _, _), value, hit in zip(batch, values, exact, strict=True):
                sums[i] += value
                greedy[i] &= bool(hit)
            done += tokens.size
            self.progress(done, total)
        if not np.isfinite(sums).all():
            raise UserError("The model's probabilities are not finite: its training diverged; use another checkpoint.")
        return sums, greedy

    def _score(self, batch: list[tuple[int, list[int], int]], width: int) -> list[tuple[float, bool]]:
        """Of windows that fit `width`: (sum of log-probabilities, greedy) over the last `count` tokens of each."""
        inputs, asked = np.zeros((len(batch), width), np.int64), np.zeros((len(batch), width), bool)
        targets = []
        for row, (_, tokens, count) in enumerate(batch):
            length = len(tokens) - 1
            inputs[row, :length] = tokens[:-1]  # zeros behind: attention is causal, nothing looks at them
            asked[row, length - count : length] = True
            targets += tokens[-count:]
        values, exact = self.probabilities(inputs, asked, np.array(targets))
        ends = np.cumsum([count for *_, count in batch])[:-1]
        parts = zip(np.split(values, ends), np.split(exact, ends), strict=True)
        return [(float(v.sum()), bool(e.all())) for v, e in parts]

    def probabilities(
        self, tokens: np.ndarray, asked: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of tokens [B, T] at the places asked [B, T], row by row: log-probabilities of the targets [n], float64, and
        whether each is the likeliest [n]."""
        features = self.model.features(torch.from_numpy(tokens).to(self.device))
        chosen = features[torch.from_numpy(asked).to(self.device)]
        values, exact = log_probabilities(self.model, chosen, torch.from_numpy(targets).to(self.device))
        return values.double().cpu().numpy(), exact.cpu().numpy()


def log_probabilities(model: Transformer, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of features [n, C] and targets [n]: log softmax at the target [n] in nats, and whether the target is the
    likeliest token [n]. The head runs in fp32 whatever the autocast, and only by chunks: no [n, V] ever exists."""
    weight, values, exact = model.head_weight.float(), [], []
    chunk = max(1, LOGIT_BYTES.get(features.device.type, 2**28) // (4 * len(weight)))
    with torch.autocast(features.device.type, enabled=False):
        for x, wanted in zip(features.split(chunk), targets.split(chunk), strict=True):
            logits = F.linear(x.float(), weight) * model.scales.logits
            if model.head_bias is not None:
                logits += model.head_bias.float()
            if cap := model.config.logit_cap:
                logits = cap * torch.tanh(logits / cap)
            at = logits.gather(1, wanted[:, None])
            top, likeliest = logits.max(1, keepdim=True)
            logits -= top
            values.append((at - top - logits.exp_().sum(1, keepdim=True).log())[:, 0])
            exact.append(likeliest[:, 0] == wanted)
    return torch.cat(values), torch.cat(exact)


def encode_pair(encoding: tiktoken.Encoding, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of context and continuation. Spaces that end the context move to the continuation, where byte-pair
    tokenizers want them; an empty context is end-of-text."""
    stem = context.rstrip()
    whole = encoding.encode_ordinary(context + continuation)
    before = encoding.encode_ordinary(stem)
    after = whole[len(before) :]
    if not after:
        raise UserError(f"The continuation {continuation!r} of {context[-40:]!r} is empty: mend the evaluation's file.")
    return before or [encoding.eot_token], after


def cut(context: list[int], continuation: list[int], size: int) -> list[tuple[list[int], int]]:
    """Windows of at most size + 1 tokens, with how many of the last ones each scores; together all the continuation.

    More than one only where the continuation is longer than the model's context, which the harness refuses.
    """
    whole, start = context + continuation, len(context)
    result = []
    for first in range(start, len(whole), size):
        end = min(first + size, len(whole))
        result.append((whole[max(0, end - size - 1) : end], end - first))
    return result
