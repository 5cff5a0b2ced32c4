"""`python -m hpt.ask`: the next trials of a search whose runs somebody else starts, a scheduler or a script."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from hpt.console import cli
from search.execution.asktell import LEASE_SECONDS, AskTell
from search.execution.external.template import values_of
from search.execution.store import SearchDir
from search.records import Proposal
from search.strategies import load
from search.strategy import Done
from trainer.config import to_dict

WAIT, DONE = 3, 4
"""Exit codes where there is no trial to run now, and where there will be none."""


@dataclass(frozen=True, kw_only=True)
class AskConfig(cli.Common):
    """Give out trials of a search begun by hpt.search --ask-only; exit code 3: none now, those that run come first; 4:
    there will be none, and the answer is printed."""

    search: tyro.conf.Positional[Path] = Path("searches")
    """The search's directory."""
    count: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1
    """Most trials to give out."""
    lease_hours: float = LEASE_SECONDS / 3600
    """What is not told by then may be asked for again."""
    go_on: bool = False
    """Go on though the newest trials have all failed alike: what ailed them is mended."""
    so_far: bool = False
    """Ask for no trial, but for the answer that there is so far."""
    strategy: str | None = None
    """Where it is code of your own, module:Class: its name again."""


def main(argv: Sequence[str]) -> int:
    config = cli.parse(AskConfig, argv, "hpt.ask")
    search = AskTell.open(SearchDir(config.search), load, config.strategy)
    if config.so_far:
        return answered(search, config, 0)
    found = search.ask(config.count, config.lease_hours * 3600, config.go_on)
    if isinstance(found, Done):
        return answered(search, config, DONE)
    trials = [shown(search, proposal) for proposal in found]
    if config.json:
        config.answer(trials if trials else {"wait": True})
    elif not config.quiet:
        for trial in trials:
            print(trial.get("command") or f"{trial['id']}: lr {trial['lr']:g}, {trial['depth']}x{trial['width']}, "
                  f"{trial['steps']:,} steps of {trial['batch']:,} tokens, seed {trial['seed']}")  # fmt: skip
    else:
        print("\n".join(trial["id"] for trial in trials))
    return 0 if trials else WAIT


def shown(search: AskTell, proposal: Proposal) -> dict[str, Any]:
    """A trial as somebody needs it to run it."""
    values: dict[str, Any] = {"id": proposal.id, **values_of(proposal)}
    values = {k: v for k, v in values.items() if k not in ("name", "out", "config")}
    if search.trainer is not None:
        words, filled = search.trainer.filled(proposal)
        values |= {"command": shlex.join(words), "out": filled["out"], "dir": search.trainer.folder}
    return {**values, "tags": proposal.tags}


def answered(search: AskTell, config: AskConfig, code: int) -> int:
    """The answer so far, which is also put into the directory."""
    answer, spent = search.recommend(), sum((t.flops for t in search.trials), 0.0)
    done = [t for t in search.trials if not t.aside]
    seconds = sum(t.seconds for t in search.trials)
    bill = {"trials": str(len(done)), "flops": spent, "seconds": seconds, "usd": sum(t.usd for t in done)}
    search.directory.write_recommendation(answer, bill)
    result = {"done": code == DONE, **to_dict(answer), "bill": bill}
    if not config.json:
        line = "no recommendation" if answer.lr is None else f"lr {answer.lr:.4g}"
        if answer.interval90:
            line += f" ({answer.interval90[0]:.3g} to {answer.interval90[1]:.3g})"
        print("\n".join([line, *([] if config.quiet else answer.reasons)]))
    else:
        config.answer(result)
    return code


if __name__ == "__main__":
    cli.run(main)
