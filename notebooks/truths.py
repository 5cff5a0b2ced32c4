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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hpt
from hpt.console.settings import SearchConfig
from search.execution.store import SearchDir
from search.records import Trial
from search.shapes.ladder import ladder, size_of
from search.strategies.grid import Grid
from trainer.config import RunConfig
from trainer.data import Prepared, prepare
from trainer.errors import UserError
from trainer.files import write_atomic
from trainer.loop import Training

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
    warmup: float = 0.05
    """Share of the tokens."""

    def settings(self, texts: dict[str, str]) -> dict[str, Any]:
        tokens, few = self.steps * self.batch, self.corpus == "stories"  # half a million tokens are at hand
        held = ("data.val_tokens=32768", "data.epochs=4") if few else ("data.val_tokens=65536",)
        fields = (*self.family, f"model.depth={self.depth}", f"model.width={self.width}",
                  f"model.heads={self.width // 32}", "model.context=128", "model.vocabulary=1024",
                  f"schedule={self.schedule}", f"tokens={tokens}", f"warmup={round(self.warmup * tokens)}",
                  *held)  # fmt: skip
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
"""0.3 to 0.9 million parameters, embeddings included: on these the settings of strategies were chosen."""
HELD_OUT = {
    "reviews-gpt2": Target("reviews", GPT2, 2, 64, 4000, 256, "cosine", warmup=0.02),
    "web-llama": Target("web", LLAMA, 3, 96, 800, 2048, "cosine", warmup=0.1),
    "code-gpt2-deep": Target("code", GPT2, 8, 64, 2500, 512, "wsd", warmup=0.02),
    "code-llama-small-batch": Target("code", LLAMA, 1, 192, 5000, 128, "wsd"),
    "books-gptneo": Target("books", ("family=gptneo",), 3, 128, 2500, 512, "cosine", warmup=0.01),
}
"""Others, made after that (what they were seen for: LOG, 2026-11-28): other corpora, batches from one sequence to
sixteen, deep and wide, warmups of 1 to 10 %."""
SHAPES = {"0.05M": (1, 64), "0.1M": (2, 64), "0.3M": (3, 96)}
FAMILIES = {
    f"stories-{family}-{size}": Target("stories", (f"family={family}",), *shape, 600, 1024, "cosine", seeds=1)
    for size, shape in SHAPES.items()
    for family in ("llama", "gptneo", "bert")
}
"""Does the best lr of one architecture serve another? Sizes are parameters in blocks."""
OWN = TARGETS | HELD_OUT
ALL = OWN | FAMILIES
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
FINER = 8
"""Number of the first grid between others."""
ENDED = ("finished", "diverged")
Asked = tuple[str, str, float, int]
"""Target, strategy, target runs, seed."""


def searches() -> list[Asked]:
    """What tells most comes first."""
    once, twice, thrice = (
        [(t, s, budget, seed) for budget, s in itertools.product(BUDGETS, WIDELY) for t in OWN] for seed in (0, 1, 2)
    )
    others = [(t, s, 0.5, 0) for s in STRATEGIES if s not in WIDELY for t in OWN]
    largest = [(t, "transfer", 1.0, 0) for t in FAMILIES if t.endswith("0.3M")]
    return [*once, *largest, *others, *twice, *thrice]


def folder(runs: Path, asked: Asked) -> Path:
    target, strategy, budget, seed = asked
    return runs / f"{target}-{strategy}-{budget:g}-{seed}"


def make_truth(runs: Path, name: str, texts: dict[str, str]) -> None:
    """Whole runs at 1e-3 to 1.6e-2, one lr further at a time while the best is at an end, and (not for FAMILIES) halves
    of a step on both sides of the best, without which a fit between two lrs is a guess."""
    _grid(runs, 0, name, texts, 1e-3, 1.6e-2)
    for number in range(1, FINER):
        losses = defaultdict[float, list[float]](list)
        for trial in truth(runs, name, FINER):
            losses[trial.lr].append(math.inf if trial.loss is None else trial.loss)
        best = min(losses, key=lambda lr: sum(losses[lr]) / len(losses[lr]))
        if min(losses) < best < max(losses):
            break
        lr = best / 2 if best == min(losses) else best * 2
        _grid(runs, number, name, texts, lr, lr)
    for k, ratio in enumerate((2**0.5, 0.5**0.5) if name not in FAMILIES else ()):
        _grid(runs, FINER + k, name, texts, best * ratio, best * ratio)


def _grid(runs: Path, number: int, name: str, texts: dict[str, str], low: float, high: float) -> None:
    grid = Grid(seeds=ALL[name].seeds)
    _find(runs, f"{name}-truth-{number}", name, texts, strategy="grid", lr_range=(low, high * 1.001), grid=grid)


def _posed(name: str, texts: dict[str, str]) -> tuple[RunConfig, Prepared]:
    target = SearchConfig(quiet=True, **ALL[name].settings(texts)).build_target()
    return target, prepare(target.data, vocabulary=target.model.vocabulary)


def compare_warmups(name: str, texts: dict[str, str]) -> None:
    """What a quarter of the target's tokens end at, with a quarter of its warmup and with all of it; printed."""
    target, data = _posed(name, texts)
    short = replace(target, tokens=target.tokens // 4 // target.batch * target.batch)
    for warmup in (target.warmup // 4, target.warmup):
        for lr in (1e-3, 2e-3, 4e-3, 8e-3):
            *_, last = Training(replace(short, warmup=warmup, lr=lr), data).reports()
            print(f"{name}, warmup {warmup:,} of {short.tokens:,} tokens, lr {lr:g}: {last.val_loss}", flush=True)


def sweep_proxies(name: str, texts: dict[str, str]) -> None:
    """How the best lr of short proxies moves with parameters, tokens and batch; printed as `proxies.csv` has it."""
    target, data = _posed(name, texts)
    for run in ladder(target, (1 / 16, 1 / 4, 1.0), (1 / 8, 1 / 4), (1.0, 1 / 4)):
        for k in range(7):
            *_, last = Training(replace(run, lr=5e-4 * 2**k), data).reports()
            print(f"{name},{size_of(run)},{run.tokens},{run.batch},{5e-4 * 2**k:g},{last.val_loss}", flush=True)


def truth(runs: Path, name: str, below: int = 10) -> list[Trial]:
    """Whole runs of the grids of smaller numbers."""
    found = [SearchDir(path).read_trials() for k in range(below) if (path := runs / f"{name}-truth-{k}").is_dir()]
    return [t for trials in found for t in trials if t.tags.get("stage") == "grid" and t.status in ENDED]


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
    parser.add_argument("--only", choices=("truths", "searches", "warmups", "proxies"))
    parser.add_argument("--keep", action="store_true")
    config = parser.parse_args(argv)
    if config.keep:
        return keep(config.runs)
    texts = dict(text.split("=", 1) for text in config.texts)
    for name in config.targets if config.only in ("warmups", "proxies") else ():
        (compare_warmups if config.only == "warmups" else sweep_proxies)(name, texts)
    for name in config.targets if config.only in (None, "truths") else ():
        make_truth(config.runs, name, texts)
    for asked in searches() if config.only in (None, "searches") else ():
        name, strategy, budget, seed = asked
        if name in config.targets:
            _find(config.runs, folder(config.runs, asked).name, name, texts, strategy=strategy, budget_runs=budget,
                  seed=seed)  # fmt: skip
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
