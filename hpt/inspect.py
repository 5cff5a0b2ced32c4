"""`python -m hpt.inspect runs/NAME`: a page of what goes on inside a model, for one text and over a corpus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from hpt.console import cli
from hpt.reports.inside import Inside, inside_page
from trainer.addresses import masked
from trainer.config import DataConfig
from trainer.data import prepare
from trainer.data.corpus import documents
from trainer.data.masking import NOTHING
from trainer.data.tokenizer import MASKS
from trainer.errors import UserError
from trainer.files import write_atomic
from trainer.inputs import val_batches

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.checkpoints.trained import Trained
    from trainer.inspect.attention import Heads
    from trainer.inspect.neurons import Neuron

HEAD_TEXTS = 16  # sequences over which heads are averaged
HEAD_TOKENS = 128  # of each


@dataclass(frozen=True, kw_only=True)
class InspectConfig(cli.Common):
    """Attention maps, heads, neurons and the logit lens of a run, in one file that needs no network."""

    run: tyro.conf.Positional[str]
    """Directory of a run, or a checkpoint file in one; or their address in an object store."""
    prompt: str = "The cat sat on the mat, because it was tired."
    """The text whose maps are drawn; a masked model's may hold <|mask|>."""
    against: str | None = None
    """Another run, side by side."""
    corpus: str | None = None
    """Text whose tokens activate the neurons: a file or folder; default: the run's held-out tokens."""
    tokens: int = 16_384
    """Of the corpus that are read."""
    neurons: int = 8
    """Shown of each feed-forward part: the most selective."""
    out: Path | None = None
    """The page; default: inspect.html in the run's folder."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(InspectConfig, argv, "hpt.inspect")
    from trainer.checkpoints.trained import open_trained  # torch: not for --help

    console = config.console()
    names = [config.run, *([config.against] if config.against else [])]
    found = list[Inside]()
    for name in names:
        with console.status(f"looking into {masked(name)}"):
            found.append(inside(open_trained(name), masked(name), config, console.print))
    out = config.out or (Path(config.run) if Path(config.run).is_dir() else Path()) / "inspect.html"
    write_atomic(out, inside_page(found).encode())
    console.print(f"written to {out}")
    answers = [
        {"run": f.name, "entropy": f.heads.entropy.tolist(), "own": f.heads.own.tolist(),
         "previous": f.heads.previous.tolist(), "first": f.heads.first.tolist(),
         "neurons": [{"block": n.block, "index": n.index, "selectivity": n.selectivity} for n in f.neurons]}
        for f in found
    ]  # fmt: skip
    config.answer({"page": out, "models": answers}, str(out))
    return 0


def inside(trained: Trained, name: str, config: InspectConfig, say: Callable[[str], None]) -> Inside:
    from trainer.inspect.attention import heads, lens, look
    from trainer.inspect.neurons import neurons, telling

    encoding, context = trained.encoding, trained.run.model.context
    special = {word for word in MASKS if word in encoding._special_tokens}
    text = encoding.encode(config.prompt, allowed_special=special, disallowed_special=())
    tokens = [trained.end_of_text, *text]
    if len(tokens) < 2 or len(tokens) > context:
        raise UserError(
            f"--prompt has {len(text)} tokens, and {name} reads 1 to {context - 1} of them behind the end-of-text that "
            "begins a text."
        )
    seen = look(trained.model, tokens)
    ids, odds = lens(trained.model, seen.streams, encoding.n_vocab)
    sequences = _sequences(trained, config)
    texts = [row[:HEAD_TOKENS].tolist() for row in sequences[:HEAD_TEXTS]] if len(sequences) else [tokens]
    if not len(sequences):
        say("the run's held-out tokens are not here: heads are of the prompt alone, and no neurons are shown; give "
            "--corpus")  # fmt: skip
    chosen: list[Neuron] = []
    if len(sequences):
        chosen = telling(neurons(trained.model, sequences), config.neurons)
    of_heads: Heads = heads(trained.model, texts)
    return Inside(
        name=name, run=trained.run, step=trained.step, encoding=encoding, tokens=tokens, maps=seen.maps, lens_ids=ids,
        lens_odds=odds, heads=of_heads, texts=len(texts), neurons=chosen, sequences=sequences,
    )  # fmt: skip


def _sequences(trained: Trained, config: InspectConfig) -> np.ndarray:
    """[n, T] of the corpus, or of the run's held-out tokens; none where these cannot be had."""
    context, end = trained.run.model.context, trained.end_of_text
    count = max(1, config.tokens // context)
    if config.corpus is not None:
        texts, tokens = documents(DataConfig(corpus=config.corpus)), list[int]()
        for text in texts:
            tokens += [end, *trained.encoding.encode_ordinary(text)]
            if len(tokens) >= count * context:
                break
        width = min(context, len(tokens))
        if width < 2:
            raise UserError(f"--corpus {config.corpus} holds no text.")
        rows = min(count, len(tokens) // width)
        return np.array(tokens[: rows * width], np.int64).reshape(rows, width)
    try:
        data = prepare(trained.run.data, enough=False)
        batches = val_batches(trained.run, data)
    except UserError:
        return np.empty((0, context), np.int64)
    found = batches.sequences(0, min(count, batches.windows))[:, :context]
    return np.where(found == NOTHING, end, found)


if __name__ == "__main__":
    cli.run(main)
