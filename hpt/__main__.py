"""`python -m hpt` lists the commands; `hpt NAME ...` runs one."""

from __future__ import annotations

import contextlib
import difflib
import runpy
import sys
from importlib.metadata import PackageNotFoundError, version

COMMANDS = {
    "data": "fetch public corpora, look into any",
    "search": "find the peak lr of a run with cheap proxies, for no more than a budget",
    "compare": "race strategies on a recorded sweep: regret against cost",
    "cost": "what runs would cost here, from 20 timed steps",
    "regret": "judge a search's answer by a dense grid at the same target",
    "mup": "check that a parametrisation transfers: activations, and lr sweeps, over widths",
    "report": "a page of what a search or a final run found",
    "ablate": "is a change of architecture, data or optimiser better, and at every scale?",
    "ui": "MLflow's pages, opened at a search",
    "bench": "how fast this is here, beside plain PyTorch, plain Ray Tune and nanoGPT",
    "train": "make the final run at the lr that a search recommends",
    "generate": "let a trained model write",
    "merge": "average or ensemble runs grown from one seed checkpoint",
    "convert": "export a trained model to transformers or llm.c, or bring one in",
    "evaluate": "score a trained model on held-out text and zero-shot tasks",
    "completion": "tab completion for bash and zsh",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in COMMANDS:
        del sys.argv[1]
        runpy.run_module(f"hpt.{name}", run_name="__main__", alter_sys=True)
        return
    if name == "--version":
        with contextlib.suppress(PackageNotFoundError):
            print(f"hpt {version('hpt')}")
            return
        print("hpt, run from a checkout that is not installed")
        return
    if name not in ("-h", "--help"):
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}."
        print(f"error: there is no command {name!r}: {hint}", file=sys.stderr)
        sys.exit(2)
    print(__doc__, end="\n\n")
    for command, line in COMMANDS.items():
        print(f"  python -m hpt.{command:<10} {line}")
    print("\nEach explains its flags with --help, prints its result as JSON with --json, and only that with --quiet.")
    print("Exit codes: 0 done, 2 bad input, 130 interrupted, 1 a final run that diverged or a defect of hpt.")


if __name__ == "__main__":
    main()
