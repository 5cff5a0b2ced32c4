"""A trained model's answers to a task's rows, scored beside a simple baseline."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch

from trainer.checkpoints.trained import Trained
from trainer.devices import use_bf16
from trainer.errors import UserError
from trainer.evals.files import spread
from trainer.evals.likelihood import silent
from trainer.evals.score import Score
from trainer.finetune.decoding import Decoding, write
from trainer.finetune.encoding import Counts, prompt
from trainer.generate import text_of
from trainer.tasks import Example, Task
from trainer.tasks.overlap import lead

FIRST_WORDS = 5


@dataclass(frozen=True, kw_only=True)
class Answered:
    scores: list[Score]
    """The model's, then the baseline's under its name."""
    answers: list[str]
    examples: list[Example]
    shortened: int
    """Prompts whose source was cut."""
    tokens_per_second: float
    """Written."""

    @property
    def below(self) -> str:
        """A warning where the leading score is no better than the baseline's."""
        mine = self.scores[0]
        floor = next(s for s in self.scores if s.name.endswith(f"/{mine.name}") and s.name.count("/") == 1)
        if mine.value > floor.value:
            return ""
        return f"{mine.name} {mine.value:.4g} is no better than {floor.name.partition('/')[0]}: {floor.value:.4g}"


def answer(
    trained: Trained,
    task: Task,
    examples: Sequence[Example],
    *,
    limit: int | None = None,
    beams: int = 1,
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] = silent,
) -> Answered:
    """Of the rows of a validation split (`limit`: so many, spread evenly). UserError for a masked model."""
    some = [examples[i] for i in spread(len(examples), limit)]
    if not trained.model.config.causal:
        raise UserError(f"A masked language model writes no answers to {task.name}: fine-tune it with --heads.")
    context, longest = trained.model.config.context, max_tokens or task.answer_tokens
    longest = min(longest, max(1, context // 4))  # the text needs the room more
    counts, encoding = Counts(), trained.encoding
    prompts = [prompt(encoding, example, context - longest, counts) for example in some]
    how = Decoding(max_tokens=longest, end=trained.end_of_text, beams=beams, allowed=encoding.n_vocab)
    bf16 = use_bf16(trained.run, trained.device)
    with torch.autocast(trained.device.type, torch.bfloat16) if bf16 else nullcontext():
        written = write(trained.model, prompts, how, progress)
    said = [text_of(encoding, tokens).strip() for tokens in written.answers]
    floor = [
        replace(score, name=f"{task.baseline}/{score.name}")
        for score in task.texts(some, baseline(task, some))
        if "/" not in score.name
    ]
    return Answered(
        scores=[*task.texts(some, said), *floor],
        answers=said,
        examples=some,
        shortened=counts.shortened,
        tokens_per_second=written.tokens_per_second,
    )


def baseline(task: Task, examples: Sequence[Example]) -> list[str]:
    """Answers without a model: the first sentences, the first words, or the commonest answer."""
    if task.baseline == "lead-3":
        return [lead(example.source, 3) for example in examples]
    if task.baseline == "first words":
        return [" ".join(re.split(r"\s+", example.source.strip())[:FIRST_WORDS]) for example in examples]
    commonest = Counter(example.answers[0] for example in examples).most_common(1)[0][0]
    return [commonest] * len(examples)
