"""`python -m hpt.tell`: how a trial that hpt.ask gave out has ended."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from hpt.console import cli
from search.execution.asktell import AskTell
from search.execution.external.losses import Reader, source
from search.execution.store import SearchDir
from search.strategies import load
from trainer.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TellConfig(cli.Common):
    """Record a trial's loss, that it diverged, or why it failed. What was told stays; the same again is no error."""

    search: tyro.conf.Positional[Path] = Path("searches")
    """The search's directory."""
    trial: tyro.conf.Positional[str] = ""
    """The trial's id, as hpt.ask gave it."""
    loss: float | None = None
    """Its final validation loss; nan says that it diverged."""
    diverged: bool = False
    """It diverged."""
    failed: str | None = None
    """It came to nothing, and why."""
    from_log: Path | None = None
    """Read the loss in this file, as --trainer.loss says, or by --loss-is."""
    loss_is: str | None = None
    """Of --from-log: an expression with a group, 'val loss (\\S+)'."""
    seconds: float | None = None
    """That it had its device; default: since it was asked for."""
    tokens: float | None = None
    """After which the loss was measured: checked."""
    strategy: str | None = None
    """Where it is code of your own, module:Class: its name again."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(TellConfig, argv, "hpt.tell")
    if not config.trial:
        raise UserError("Say which trial: python -m hpt.tell DIR ID --loss 3.21.")
    search = AskTell.open(SearchDir(config.search), load, config.strategy)
    loss, diverged, failed = config.loss, config.diverged, config.failed or ""
    if config.from_log is not None:
        loss = from_log(search, config.from_log, config.loss_is)
    new = search.tell(
        config.trial, loss, diverged=diverged, failed=failed, seconds=config.seconds, tokens=config.tokens
    )
    what = f"loss {loss:g}" if loss is not None and math.isfinite(loss) else failed or "diverged"
    if not config.json and not config.quiet:
        print(f"{config.trial}: {what}{'' if new else ' (told before)'}")
    config.answer({"trial": config.trial, "loss": loss, "new": new})
    return 0


def from_log(search: AskTell, path: Path, pattern: str | None) -> float:
    """The last loss of a log. UserError where there is none."""
    if pattern is None and search.trainer is None:
        raise UserError("--from-log needs --loss-is, an expression with a group: the search names no trainer.")
    where = source(pattern) if pattern is not None or search.trainer is None else search.trainer.source
    reader = Reader(where)
    try:
        lines = path.read_text("utf-8", errors="replace").replace("\r", "\n").splitlines()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    for line in lines:
        reader.feed(line)
    if not reader.points:
        raise UserError(f"{path} has no loss that matches {where.pattern or 'hpt {...}'}.")
    return reader.points[-1][1]


if __name__ == "__main__":
    cli.run(main)
