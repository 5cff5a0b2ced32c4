"""`python notebooks/truths.py RUNS --texts encyclopaedia=FILE books=FILE stories=FILE`: small targets whose best lr is
found by whole runs (5 lrs and more at a factor of two, two seeds), and every strategy really run on them. Several
processes may work on one folder at once, each on --targets of its own; what is finished is not made again. `--keep`
writes what notebooks 03 and 10 read."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import math
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hpt
from search.execution.store import SearchDir
from search.records import Trial
from search.strategies.grid import Grid
from trainer.errors import UserError
from trainer.files import write_atomic

KEPT = Path(__file__).parent / "data" / "truths"
GPT2, LLAMA = (), ("model.positions=rope", "model.norm=rmsnorm", "model.activation=swiglu", "model.bias=false")


@dataclass(frozen=True)
class Target:
    corpus: str
    family: tuple[str, ...]
    depth: int
    width: int
    steps: int
    batch: int
    schedule: str
    seeds: int = 2

    def settings(self, texts: dict[str, str]) -> dict[str, Any]:
        tokens, few = self.steps * self.batch, self.corpus == "stories"  # half a million tokens are at hand
        held = ("data.val_tokens=32768", "data.epochs=4") if few else ("data.val_tokens=65536",)
        fields = (*self.family, f"model.depth={self.depth}", f"model.width={self.width}",
                  f"model.heads={self.width // 32}", "model.context=128", "model.vocabulary=1024",
                  f"schedule={self.schedule}", f"tokens={tokens}", f"warmup={tokens // 20}", *held)  # fmt: skip
        corpus = {} if self.corpus == "code" else {"corpus": texts[self.corpus]}
        size = 1024 - few  # of 1,024 ids one is the mask's
        return {"target": "laptop", "tokenizer": f"bpe:{size}", "batch": self.batch, "set": fields, **corpus}


TARGETS = {
    "code-gpt2": Target("code", GPT2, 2, 96, 2000, 512, "cosine"),
    "encyclopaedia-llama": Target("encyclopaedia", LLAMA, 2, 96, 3000, 512, "cosine"),
    "books-gpt2": Target("books", GPT2, 3, 96, 1500, 512, "wsd"),
    "books-llama": Target("books", LLAMA, 2, 128, 4000, 256, "cosine"),
    "code-llama": Target("code", LLAMA, 3, 128, 1500, 1024, "wsd"),
    "encyclopaedia-gpt2": Target("encyclopaedia", GPT2, 4, 128, 2000, 512, "wsd"),
}
"""0.3 to 0.9 million parameters, embeddings included."""
SHAPES = {"0.05M": (1, 64), "0.1M": (2, 64), "0.3M": (3, 96)}
FAMILIES = {
    f"stories-{family}-{size}": Target("stories", (f"family={family}",), *shape, 600, 1024, "cosine", seeds=1)
    for size, shape in SHAPES.items()
    for family in ("llama", "gptneo", "bert")
}
"""Does the best lr of one architecture serve another? Sizes are parameters in blocks."""
ALL = TARGETS | FAMILIES
WIDELY = ("transfer", "hyperband")
STRATEGIES = (
    *WIDELY,
    "early-stopping",
    "greedy",
    "model-scaling",
    "data-scaling",
    "hybrid",
    "mutransfer",
    "literature",
)
BUDGETS = (0.5, 1.0, 0.25)
Asked = tuple[str, str, float, int]
"""Target, strategy, target runs, seed."""


def searches() -> list[Asked]:
    """What tells most comes first."""
    first = itertools.product((0, 1, 2), BUDGETS, WIDELY)
    asked = [(target, s, budget, seed) for seed, budget, s in first for target in TARGETS]
    others = [(t, s, 0.5, 0) for s in STRATEGIES[2:] for t in TARGETS]
    largest = [(t, "transfer", 1.0, 0) for t in FAMILIES if t.endswith("0.3M")]
    return [*asked[: 2 * 3 * len(TARGETS)], *largest, *others, *asked[2 * 3 * len(TARGETS) :]]


def folder(runs: Path, asked: Asked) -> Path:
    target, strategy, budget, seed = asked
    return runs / f"{target}-{strategy}-{budget:g}-{seed}"


def make_truth(runs: Path, name: str, texts: dict[str, str]) -> None:
    """Whole runs at 1e-3 to 1.6e-2, and one lr further at a time while the best is at an end."""
    low, high = 1e-3, 1.6e-2
    _find(
        runs,
        f"{name}-truth-0",
        name,
        texts,
        strategy="grid",
        lr_range=(low, high * 1.001),
        grid=Grid(seeds=ALL[name].seeds),
    )
    for k in range(1, 5):
        trials = truth(runs, name)
        best = min((t for t in trials if t.loss is not None), key=lambda t: t.loss).lr
        lrs = sorted({t.lr for t in trials})
        if best not in (lrs[0], lrs[-1]):
            return
        lr = best / 2 if best == lrs[0] else best * 2
        _find(
            runs,
            f"{name}-truth-{k}",
            name,
            texts,
            strategy="grid",
            lr_range=(lr, lr * 1.001),
            grid=Grid(seeds=ALL[name].seeds),
        )


def make_finer(runs: Path, name: str, texts: dict[str, str]) -> None:
    """Halves of a step on both sides of the best lr, without which a fit between two of them is a guess."""
    means = defaultdict[float, list[float]](list)
    for trial in truth(runs, name):
        if trial.loss is not None:
            means[trial.lr].append(trial.loss)
    best = min((lr for lr in means if f"{lr:.1g}" == f"{lr:.2g}"), key=lambda lr: sum(means[lr]) / len(means[lr]))
    for k, lr in enumerate((best * 2**0.5, best / 2**0.5)):
        ends = (lr, lr * 1.001)
        _find(runs, f"{name}-truth-{8 + k}", name, texts, strategy="grid", lr_range=ends, grid=Grid(seeds=2))


def truth(runs: Path, name: str) -> list[Trial]:
    found = [SearchDir(path).read_trials() for path in sorted(runs.glob(f"{name}-truth-*"))]
    return [t for trials in found for t in trials if t.tags.get("stage") == "grid" and t.status != "pruned"]


def _find(runs: Path, directory: str, name: str, texts: dict[str, str], **settings: Any) -> None:
    """Nothing where it is made, or being made by another process; what was interrupted goes on."""
    if (runs / directory / "recommendation.json").exists():
        return
    begun = {"resume": runs / directory} if (runs / directory / "config.json").exists() else {}
    print(directory, flush=True)
    try:
        settings = {"budget_runs": 20.0, **settings}
        hpt.find_lr(quiet=True, name=directory, out=runs, **ALL[name].settings(texts), **settings, **begun)
    except UserError as error:
        print(f"{directory}: {error}", flush=True)


def rows(runs: Path) -> list[dict[str, Any]]:
    """A row a search that has an answer: what it recommends, what that gives up, what it cost."""
    from hpt.regret import searched, truth_curve

    found = list[dict[str, Any]]()
    curves = {name: truth_curve(KEPT / f"{name}.jsonl") for name in ALL if (KEPT / f"{name}.jsonl").exists()}
    for asked in searches():
        path = folder(runs, asked)
        if asked[0] not in curves or not (path / "recommendation.json").exists():
            continue
        row, answer = searched(curves[asked[0]], path), SearchDir(path).read_recommendation()
        for share in ("50", "90"):
            ends = answer[f"interval{share}"] or (math.nan, math.nan)
            row |= {f"low{share}": ends[0], f"high{share}": ends[1]}
        found.append(dict(zip(("target", "strategy", "budget", "seed"), asked, strict=True)) | row)
    return found


def kept(trial: dict[str, Any], corpus: str) -> dict[str, Any]:
    """Without the place of its corpus on some machine, and without its curve."""
    run = trial["run"]
    return trial | {"train_curve": [], "run": run | {"data": run["data"] | {"corpus": corpus}}}


def keep(runs: Path) -> None:
    for name in ALL:
        trials = [kept(t.to_json(), ALL[name].corpus) for t in truth(runs, name)]
        if len({t["run"]["lr"] for t in trials}) >= 5:
            write_atomic(KEPT / f"{name}.jsonl", "".join(f"{json.dumps(t)}\n" for t in trials).encode())
    found, out = rows(runs), io.StringIO()
    if found:
        names = list(dict.fromkeys(key for row in found for key in row if key not in ("what", "wait_ms")))
        writer = csv.DictWriter(out, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
        write_atomic(KEPT / "searches.csv", out.getvalue().encode())
    print(f"{len(found)} searches")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--texts", nargs="*", default=[], help="CORPUS=PATH")
    parser.add_argument("--targets", nargs="*", default=list(ALL))
    parser.add_argument("--only", choices=("truths", "searches"))
    parser.add_argument("--keep", action="store_true")
    config = parser.parse_args(argv)
    if config.keep:
        return keep(config.runs)
    texts = dict(text.split("=", 1) for text in config.texts)
    for name in config.targets if config.only != "searches" else ():
        make_truth(config.runs, name, texts)
    for name in config.targets if config.only != "searches" else ():
        if name in TARGETS:
            make_finer(config.runs, name, texts)
    for asked in searches() if config.only != "truths" else ():
        name, strategy, budget, seed = asked
        if name in config.targets:
            _find(config.runs, folder(config.runs, asked).name, name, texts, strategy=strategy, budget_runs=budget,
                  seed=seed)  # fmt: skip
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
