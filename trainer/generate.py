"""Text from a trained model, token by token."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence

import tiktoken
import torch
from torch import Tensor

from trainer.architecture.model import KVCache, Transformer
from trainer.errors import UserError


def filter_logits(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """logits [..., V] scaled, those that may not be drawn at -inf.

    top_k: only the k likeliest; top_p: only the fewest whose probability reaches p (arXiv 1904.09751), the likeliest
    always. temperature must be positive.
    """
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[..., -1:], -torch.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(descending=True, dim=-1)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
        logits = logits.masked_fill(
            torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p), -torch.inf
        )
    return logits


@torch.no_grad()
def generate(
    model: Transformer,
    prompt: Sequence[int],
    *,
    samples: int = 1,
    max_tokens: int = 256,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    end: int | None = None,
    allowed: int | None = None,
) -> Iterator[list[int | None]]:
    """The next token of each sample after `prompt` (at least one token), until all have ended.

    A sample that drew `end` yields None from there on. temperature 0: the likeliest token. allowed: ids below it may be
    drawn (a padded vocabulary has rows that mean nothing). Where the context is full, the older half of it is
    forgotten: what is left is read again, since learned positions cannot be moved.
    """
    if not model.config.causal:
        raise UserError(
            "This model sees both ways and was trained to fill in masked tokens: it cannot write from left to right."
        )
    if not prompt:
        raise UserError("Generation needs a prompt of at least one token: end-of-text begins a new text.")
    for name, value, good in (
        ("max_tokens", max_tokens, max_tokens > 0),
        ("temperature", temperature, temperature >= 0),
        ("top_k", top_k, top_k is None or top_k > 0),
        ("top_p", top_p, 0 < top_p <= 1),
    ):
        if not good:
            raise UserError(f"--{name.replace('_', '-')} {value} makes no sense: see --help for its range.")
    device, context = model.embedding.weight.device, model.config.context
    generator = torch.Generator(device).manual_seed(seed)
    seen = torch.tensor([list(prompt)] * samples, device=device)
    cache, fresh = KVCache(model.config, samples, device), seen[:, -context:]
    over = [False] * samples
    for _ in range(max_tokens):
        if cache.length == context:
            cache, fresh = KVCache(model.config, samples, device), seen[:, -max(1, context // 2) :]
        logits = model.logits(model.features(fresh, cache=cache)[:, -1], allowed).float()
        if temperature == 0:
            token = logits.argmax(-1, keepdim=True)
        else:
            odds = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
            token = torch.multinomial(odds, 1, generator=generator)
        seen, fresh = torch.cat([seen, token], dim=1), token
        drawn = token[:, 0].tolist()
        over = [was or t == end for was, t in zip(over, drawn, strict=True)]
        yield [None if done else t for done, t in zip(over, drawn, strict=True)]
        if all(over):
            return


class Decoder:
    """Text of tokens as they come: bytes of a character that is not complete yet wait for the rest."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding, self.state = encoding, codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        return self.state.decode(self.encoding.decode_single_token_bytes(token))

    def close(self) -> str:
        """What never became a character."""
        return self.state.decode(b"", final=True)


def text_of(encoding: tiktoken.Encoding, tokens: Sequence[int]) -> str:
    return b"".join(encoding.decode_tokens_bytes(list(tokens))).decode("utf-8", errors="replace")


def sample_text(
    model: Transformer, encoding: tiktoken.Encoding, *, samples: int, max_tokens: int, seed: int = 0
) -> str:
    """Unconditional samples, one paragraph each: a look at a model while it trains."""
    end, drawn = encoding.eot_token, [list[int]() for _ in range(samples)]
    for row in generate(
        model, [end], samples=samples, max_tokens=max_tokens, top_k=50, seed=seed, end=end, allowed=encoding.n_vocab
    ):
        for tokens, token in zip(drawn, row, strict=True):
            if token is not None:
                tokens.append(token)
    return "\n\n".join(text_of(encoding, tokens) for tokens in drawn)
