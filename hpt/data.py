"""`python -m hpt.data`: corpora, from raw text to token shards: get, dedup, score, tokenise, inspect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import tyro

from hpt.console import cli
from hpt.corpora import dedup, get, inspect, score, tokenise
from hpt.corpora.dedup import Dedup
from hpt.corpora.get import Get
from hpt.corpora.inspect import Inspect
from hpt.corpora.score import Score
from hpt.corpora.tokenise import Tokenise

FORMS: dict[str, tuple[type[cli.Common], Callable[[Any, Any], int]]] = {
    "get": (Get, get.run),
    "dedup": (Dedup, dedup.run),
    "score": (Score, score.run),
    "tokenise": (Tokenise, tokenise.run),
    "inspect": (Inspect, inspect.run),
}
"""By the word that follows `hpt.data`, in the order of use."""


def main(argv: Sequence[str]) -> int:
    commands = (
        Annotated[Get, tyro.conf.subcommand("get")]
        | Annotated[Dedup, tyro.conf.subcommand("dedup")]
        | Annotated[Score, tyro.conf.subcommand("score")]
        | Annotated[Tokenise, tyro.conf.subcommand("tokenise")]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    )
    chosen = cli.parse(cast(Any, commands), argv, "hpt.data")
    return next(run for form, run in FORMS.values() if isinstance(chosen, form))(chosen, chosen.console())


if __name__ == "__main__":
    cli.run(main)
