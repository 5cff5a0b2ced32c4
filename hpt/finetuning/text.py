"""Fine-tuning by text as a run of the trainer: packed rows for a corpus, everything else as pretraining had it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpt.finetuning.settings import examples_of, given_files, the_tasks, tokenizer_fits
from trainer.config import DataConfig, RunConfig
from trainer.data import prepare
from trainer.errors import UserError
from trainer.finetune.mixture import Part, make_rows
from trainer.tasks import Example

if TYPE_CHECKING:  # torch takes 1.5 s to import, and whoever asks for --help needs none of it
    from trainer.checkpoints.trained import Trained

TARGET = "finetune:"
"""Begins a target of hpt.search that is the fine-tuning of a run."""
SHARE_OF_LR = 0.3
"""Of pretraining's peak lr, where neither --lr nor a search says more."""
VAL_TOKENS = 131_072
"""Held-out tokens that each validation reads, at most."""
STEPS = 50
"""The batch is pretraining's, or smaller so that there are so many steps."""
Found = Mapping[str, tuple[list[Example], list[Example]]]
"""Examples of the splits train and validation, by task."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What a fine-tuning by text may choose; the defaults are hpt.finetune's."""

    epochs: float = 3.0
    seed: int = 0
    weights: tuple[float, ...] = ()
    lr: float | None = None
    batch: int | None = None


def text_run(trained: Trained, found: Found, how: Text, say: Callable[[str], None] = lambda text: None) -> RunConfig:
    """Optimiser and schedule are BabyLM's of 2025: AdamW, 6 % warmup, cosine to a tenth, weight decay 0.01,
    betas 0.9 and 0.999."""
    old, weights = trained.run, how.weights or (1.0,) * len(found)
    if not trained.model.config.causal:
        raise UserError("A masked language model writes no answers: give --heads, and tasks that have labels.")
    tokenizer_fits(trained)
    parts = [
        Part(name=name, train=train, validation=validation, weight=weight)
        for (name, (train, validation)), weight in zip(found.items(), weights, strict=True)
    ]
    folder, context = make_rows(parts, trained.encoding, old.model.context, how.seed, say), old.model.context
    data = DataConfig(corpus=str(folder), tokenizer=old.data.tokenizer, val_tokens=context, pack="rows")
    prepared = prepare(data)
    tokens = max(context, round(how.epochs * prepared.train_tokens))
    batch = how.batch or max(context, min(old.batch, tokens // STEPS // context * context))
    held = min(prepared.val_tokens, max(context, VAL_TOKENS // context * context))
    return replace(
        old,
        data=replace(data, val_tokens=held, epochs=how.epochs + batch / prepared.train_tokens + 1e-6),
        tokens=tokens,
        batch=batch,
        lr=how.lr or SHARE_OF_LR * (old.lr or 1e-4),
        schedule="cosine",
        warmup=round(0.06 * tokens),
        final_fraction=0.1,
        weight_decay=0.01,
        betas=(0.9, 0.999),
        seed=how.seed,
        loss_cap=None,
        micro_batch=None,
    )


def finetune_target(target: str, tasks: Sequence[str], data: Sequence[str], seed: int) -> RunConfig:
    """What `--target finetune:RUN --tasks ...` of hpt.search stands for: hpt.finetune's run, begun from RUN's weights.
    Its rows must be here."""
    from trainer.checkpoints.trained import open_trained

    known, given = the_tasks(tasks, ())
    files = given_files(data, known, given)
    trained = open_trained(target.removeprefix(TARGET))
    found = {task.name: examples_of(task, files.get(task.name, {}), False, None, lambda text: None) for task in known}
    return replace(text_run(trained, found, Text(seed=seed)), init_from=str(trained.path.absolute()))
