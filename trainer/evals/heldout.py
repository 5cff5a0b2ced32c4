"""Validation loss and bits per byte: on a run's own held-out tokens, or on any text."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from trainer.config import DataConfig, RunConfig
from trainer.data import prepare
from trainer.data.corpus import documents
from trainer.data.masking import NOTHING, Masking
from trainer.data.tokenizer import load_tokenizer, mask_id
from trainer.errors import UserError
from trainer.evals.files import spread
from trainer.evals.likelihood import BATCH_TOKENS, Scorer, log_probabilities
from trainer.evals.score import Score, mean_score
from trainer.inputs import Inputs, make_inputs, stacked, val_batches


def evaluate_run(scorer: Scorer, run: RunConfig, limit: int | None) -> list[Score]:
    """On the tokens that every evaluation of the run read while it trained; `limit` sequences, spread evenly."""
    data = prepare(run.data, vocabulary=run.model.vocabulary)
    if load_tokenizer(data.tokenizer).token_byte_values() != scorer.encoding.token_byte_values():
        raise UserError(
            f"Corpus {run.data.corpus!r} has changed since this run: its tokenizer is another one. Give a text with "
            "--data val=PATH, and compare bits per byte."
        )
    batches, count = val_batches(run, data), run.data.val_tokens // run.model.context
    if run.ragged:
        inputs = [make_inputs(run, data, batches, i, 1) for i in spread(count, limit)]
        loss = _asked(scorer, inputs)
        bits = 1 / math.log(2) / data.bytes_per_token
        return [loss] if run.objective == "masked" or run.data.pack == "rows" else [loss, _bits(loss, bits)]
    sequences = np.concatenate([batches.sequences(i, 1) for i in spread(count, limit)])
    return _scores(scorer, sequences, data.bytes_per_token, run.data.mask_documents)


def evaluate_text(scorer: Scorer, path: Path, limit: int | None) -> list[Score]:
    """On a text of any kind that a corpus may be: its documents behind each other, each behind an end-of-text.

    What is left after the last whole sequence is not read. `limit` sequences, spread evenly.
    """
    context, end = scorer.model.config.context, scorer.encoding.eot_token
    texts = list(documents(DataConfig(corpus=str(path))))
    tokens = np.array([t for text in texts for t in (end, *scorer.encoding.encode_ordinary(text))], np.int64)
    bytes_per_token = sum(len(text.encode()) for text in texts) / max(1, len(tokens))
    count = (len(tokens) - 1) // context
    if count < 1:
        raise UserError(f"{path} has {len(tokens)} tokens and the model reads {context + 1} at a time: give more text.")
    starts = np.array(spread(count, limit)) * context
    if not scorer.model.config.causal:
        mask, end = mask_id(scorer.encoding), scorer.encoding.eot_token
        rule = Masking(rate=0.15, masked=0.8, random=0.1, token=mask, vocabulary=mask, end_of_text=end)
        hidden = [rule.apply(tokens[None, start : start + context], i, None) for i, start in enumerate(starts)]
        return [_asked(scorer, [Inputs(*pair) for pair in hidden])]
    return _scores(scorer, tokens[starts[:, None] + np.arange(context + 1)], bytes_per_token, mask=False)


@torch.no_grad()
def _scores(scorer: Scorer, sequences: np.ndarray, bytes_per_token: float, mask: bool) -> list[Score]:
    """Of sequences [n, context + 1]. The standard error is over sequences: tokens of one text are not independent."""
    count, context = len(sequences), sequences.shape[1] - 1
    rows = max(1, (scorer.batch_tokens or BATCH_TOKENS.get(scorer.device.type, 4096)) // context)
    losses = []
    for first in range(0, count, rows):
        batch = torch.from_numpy(sequences[first : first + rows]).to(scorer.device)
        tokens, targets = batch[:, :-1], batch[:, 1:]
        numbers = (tokens == scorer.encoding.eot_token).cumsum(1) if mask else None
        features = scorer.model.features(tokens, numbers).flatten(0, 1)
        values, _ = log_probabilities(scorer.model, features, targets.flatten())
        losses.append(-values.view(len(batch), context).double().mean(1).cpu().numpy())
        scorer.progress(min(first + rows, count) * context, count * context)
    loss = mean_score("loss", np.concatenate(losses))
    if not math.isfinite(loss.value):
        raise UserError("The model's loss is not finite: its training diverged; use another checkpoint.")
    return [loss, _bits(loss, 1 / math.log(2) / bytes_per_token)]


def _bits(loss: Score, factor: float) -> Score:
    error = None if loss.standard_error is None else loss.standard_error * factor
    return replace(loss, name="bits_per_byte", value=loss.value * factor, standard_error=error)


@torch.no_grad()
def _asked(scorer: Scorer, inputs: list[Inputs]) -> Score:
    """The mean loss of what is asked for in sequences; one may ask for more than another."""
    sums, counts = list[float](), [int(one.asked.sum()) for one in inputs]
    rows = max(1, (scorer.batch_tokens or BATCH_TOKENS.get(scorer.device.type, 4096)) // inputs[0].tokens.shape[1])
    for first in range(0, len(inputs), rows):
        some = inputs[first : first + rows]
        tokens, targets, documents = stacked(some).to(scorer.device)
        features = scorer.model.features(tokens, documents, targets=targets)
        values, _ = log_probabilities(scorer.model, features, targets[targets != NOTHING])
        parts = np.split(values.double().cpu().numpy(), np.cumsum(counts[first : first + rows])[:-1])
        sums += [-float(part.sum()) for part in parts]
        scorer.progress(first + len(some), len(inputs))
    total = max(1, sum(counts))
    if not math.isfinite(mean := sum(sums) / total):
        raise UserError("The model's loss is not finite: its training diverged; use another checkpoint.")
    off = np.array(sums) - mean * np.array(counts)  # of a ratio of sums over sequences
    error = float(np.std(off, ddof=1)) * math.sqrt(len(off)) / total if len(off) > 1 else None
    return Score(name="loss", value=mean, standard_error=error, count=len(inputs))
