"""`python -m hpt.generate`: text from a trained run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import tyro
from rich.console import Console

from hpt.console import cli
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(cli.Common):
    """Go on from a prompt; without one, begin a text."""

    run: tyro.conf.Positional[str]
    """Directory of a run of hpt.train (also as --from), or a checkpoint file; or their address in an object store."""
    prompt: str = ""
    """What the text begins with."""
    samples: int = 1
    """Texts, all from the same prompt."""
    max_tokens: int = 200
    """Most tokens of each."""
    temperature: float = 0.8
    """Below 1: likelier tokens more often; 0: always the likeliest."""
    top_k: int | None = None
    """Draw from the k likeliest tokens only."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probability reaches this."""
    seed: int = 0
    """The same seed gives the same text."""


def main(argv: Sequence[str]) -> int:
    argv = [a for a in argv if a != "--from"]
    config = cli.parse(GenerateConfig, argv, "hpt.generate")

    from trainer.checkpoints.trained import open_trained  # torch: not for --help
    from trainer.generate import Decoder, generate, text_of

    if config.samples < 1:
        raise UserError(f"--samples {config.samples} must be at least 1.")
    trained = open_trained(config.run)
    encoding, end = trained.encoding, trained.end_of_text
    prompt = [end, *encoding.encode_ordinary(config.prompt)]
    stream = config.samples == 1 and not config.json
    decoder, drawn = Decoder(encoding), [list[int]() for _ in range(config.samples)]
    began = time.perf_counter()
    if stream:
        print(config.prompt, end="", flush=True)
    for row in generate(
        trained.model,
        prompt,
        samples=config.samples,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        seed=config.seed,
        end=end,
        allowed=encoding.n_vocab,
    ):
        for tokens, token in zip(drawn, row, strict=True):
            if token is not None:
                tokens.append(token)
        if stream and row[0] is not None:
            print(decoder.add(row[0]), end="", flush=True)
    seconds = time.perf_counter() - began
    texts, speed = [text_of(encoding, tokens) for tokens in drawn], sum(map(len, drawn)) / seconds
    if config.json:
        config.answer({"prompt": config.prompt, "texts": texts, "tokens_per_second": round(speed, 1)})
        return 0
    if stream:
        print(decoder.close())
    else:
        for i, text in enumerate(texts):
            print(f"--- {i + 1}\n{config.prompt}{text}")
    line = f"{sum(map(len, drawn))} tokens, {speed:,.0f} tokens/s, step {trained.step:,}"
    if not config.quiet:
        Console(stderr=True, highlight=False).print(line, style="dim")
    return 0


if __name__ == "__main__":
    cli.run(main)
