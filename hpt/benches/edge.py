"""A trained model in each form that hpt.convert writes for small machines: bytes, speed on one text, loss."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from hpt.benches.common import Row
from trainer.architecture.model import Transformer
from trainer.checkpoints.trained import Trained
from trainer.data import prepare
from trainer.edge import EDGES, Form
from trainer.edge.check import compare
from trainer.edge.form import Torch
from trainer.edge.scoring import FormScorer
from trainer.errors import UserError
from trainer.evals.evaluators import EVALUATORS
from trainer.exchange import from_trained
from trainer.inputs import make_inputs, val_batches

PROMPT, WRITTEN = 16, 64
"""Tokens that are read before and written while decoding is timed."""
SEQUENCES = 16
"""Of the held-out tokens, at most, for the loss."""


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """On which every form is scored."""

    files: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """By names of trainer.evals.evaluators."""
    limit: int = 100
    """Items of each."""

    def scores(self, trained: Trained, form: Form) -> Row:
        """The leading score of each task."""
        scorer, found = FormScorer(model=trained.model, encoding=trained.encoding, form=form), Row()
        for task, path in self.files.items():
            lead = EVALUATORS[task].score(scorer, path, self.limit)[0]
            found[f"{task}/{lead.name}"] = lead.value
        return found


def measure(trained: Trained, repeats: int, tasks: Tasks, say: Callable[[str], None]) -> list[Row]:
    """A row a form. A form that this model cannot have is left out, and said."""
    base, plain = Torch(trained.model), from_trained(trained)
    tokens, targets = _held_out(trained, say)
    itself = compare(base, base, tokens, targets)
    rows = [{"form": "hpt, fp32", "megabytes": _bytes(trained.model) / 1e6, **_timed(base, trained, repeats),
             "val_loss": itself.loss, "logit_difference": 0.0, "agreement": 1.0,
             **tasks.scores(trained, base)}]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, edge in EDGES.items():
            path = Path(folder) / f"{name}{edge.suffix}"
            try:
                edge.write(plain, path)
                form = edge.read(path)
            except UserError as error:
                say(f"{name} is left out: {error}")
                continue
            found = compare(base, form, tokens, targets)
            speeds = {} if isinstance(form, Torch) else _timed(form, trained, repeats)
            rows.append({"form": name, "megabytes": path.stat().st_size / 1e6, **speeds, "val_loss": found.loss,
                         "logit_difference": found.difference, "agreement": found.agreement,
                         **tasks.scores(trained, form)})  # fmt: skip
    return rows


def _bytes(model: Transformer) -> int:
    return sum(4 * p.numel() for p in model.parameters())


def _timed(form: Form, trained: Trained, repeats: int) -> Row:
    """Tokens a second: reading a text, and writing one (of a causal model) after a short prompt; medians."""
    context = trained.run.model.context
    text = np.random.default_rng(0).integers(0, trained.encoding.n_vocab, (1, min(128, context)))
    read = _seconds(lambda: form.logits(text), repeats)
    found: Row = {"prefill_tokens_per_s": text.shape[1] / read}
    count = min(WRITTEN, context - PROMPT)
    if trained.run.model.causal and count > 0:
        written = _seconds(lambda: form.decode(text[:, :PROMPT], count), repeats)
        found["decode_tokens_per_s"] = count / written
    return found


def _seconds(way: Callable[[], object], repeats: int) -> float:
    way()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        way()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _held_out(trained: Trained, say: Callable[[str], None]) -> tuple[np.ndarray, np.ndarray | None]:
    """The run's held-out tokens with their targets; where these are not here, tokens at random without."""
    run = trained.run
    try:
        data = prepare(run.data, enough=False)
        batches = val_batches(run, data)
        plain = replace(run, data=replace(run.data, mask_documents=False))
        found = make_inputs(plain, data, batches, 0, min(SEQUENCES, batches.windows))
        if found.documents is None:
            return found.tokens, found.targets
        say("sequences of this run hold several documents apart, which these forms do not: no loss is measured")
        return found.tokens, None
    except UserError as error:
        say(f"no loss is measured: {error}")
    size = (2, min(128, run.model.context))
    return np.random.default_rng(0).integers(0, trained.encoding.n_vocab, size), None


def open_on_cpu(threads: int) -> torch.device:
    """Where edge figures are taken."""
    torch.set_num_threads(threads)
    return torch.device("cpu")
