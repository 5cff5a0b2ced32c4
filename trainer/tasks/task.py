"""What a fine-tuning task is: rows become examples, examples are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.errors import UserError
from trainer.evals.score import Score

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row as text. The model reads source + after + ask and writes " " + the first answer and end-of-text; a head
    reads source + after and gives the label."""

    source: str
    """What may be shortened, from its end, where the context is too short."""
    after: str = ""
    """Behind it, never cut."""
    ask: str = ""
    """The instruction, for a model that writes."""
    answers: tuple[str, ...] = ()
    """All that are right; "" where the right answer is none."""
    keep: tuple[int, int] | None = None
    """Characters of the source that a training example must not lose."""
    label: float | None = None
    """Class, or value of a regression."""
    group: str = ""
    """Examples of one question: of several, the likeliest is chosen, or all must be right."""

    @property
    def key(self) -> str:
        """What decides whether a row is held out: rows of one source stay together."""
        return self.source


Texts = Callable[[Sequence[Example], Sequence[str]], list[Score]]
"""(examples, what the model wrote) -> scores, the leading one first."""


@dataclass(frozen=True, kw_only=True)
class Task:
    name: str
    line: str
    examples: Callable[[Row], list[Example]]
    """KeyError and TypeError of a row are said as missing or wrong columns."""
    texts: Texts
    """How texts are scored."""
    columns: tuple[str, ...]
    """That a row must have."""
    kind: Literal["text", "label", "value", "span"] = "text"
    """All but text: a head may be trained. span: an answer stands in the source, at an example's `keep`."""
    may_be_none: bool = False
    """Of a span: some questions have no answer in the source."""
    labels: tuple[str, ...] = ()
    """The word of each class."""
    metrics: tuple[str, ...] = ()
    """Of a head, by trainer.tasks.labels; the first leads."""
    head_examples: Callable[[Row], list[Example]] | None = None
    """Where a head reads others than a model that writes: one a choice, say."""
    baseline: Literal["lead-3", "first words", "majority"] = "majority"
    answer_tokens: int = 8
    """Most that are written."""
    urls: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Of the splits train and validation, where their authors publish them."""

    def made(self, row: Row, where: str, heads: bool = False) -> list[Example]:
        """The examples of a row; UserError names what is wrong with it."""
        if missing := [name for name in self.columns if name not in row]:
            raise UserError(
                f"{where}: {self.name} needs a column {missing[0]!r}, and the row has {', '.join(map(str, row))}."
            )
        try:
            found = (self.head_examples if heads and self.head_examples else self.examples)(row)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise UserError(
                f"{where} is no row of {self.name} ({type(error).__name__}: {' '.join(str(error).split())[:80]}): its "
                f"columns are {', '.join(self.columns)}."
            ) from None
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        for example in found:
            known = range(len(self.labels) or 2)
            if self.kind == "label" and example.label is not None and example.label not in known:
                raise UserError(
                    f"{where}: label {example.label:g} is outside {self.name}'s set of 0 to {known[-1]}: rows of a "
                    "test split carry none."
                )
        return found


def word(labels: Sequence[str], label: int) -> tuple[str, ...]:
    """The answer that a label is; UserError outside the set."""
    if not 0 <= label < len(labels):
        raise UserError(
            f"label {label} is outside the set of 0 to {len(labels) - 1} ({', '.join(labels)}): rows of a test split "
            "carry none."
        )
    return (labels[label],)
