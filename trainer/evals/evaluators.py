"""Evaluators: each yields scores of a model on one task, zero-shot. A new task is a line of EVALUATORS."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tiktoken
import torch

from trainer.architecture.model import Transformer
from trainer.checkpoints.trained import Trained
from trainer.devices import use_bf16
from trainer.errors import UserError
from trainer.evals import blimp, heldout, lambada, multiple_choice
from trainer.evals.files import cached, fetch
from trainer.evals.likelihood import Scorer, silent
from trainer.evals.score import Score as Score

GITHUB = "https://raw.githubusercontent.com"
# The version whose content the checksums below are of.
FOUNDRY = f"{GITHUB}/mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/scripts/eval/local_data"


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """A task: how it is scored, and where its file is."""

    score: Callable[[Scorer, Path, int | None], list[Score]]
    """Model, file, most items."""
    url: str = ""
    sha256: str = ""
    """Of the file at `url`; empty where it is not known."""


def _choices(read: Callable[..., multiple_choice.Item], url: str, sha256: str, normalised: bool = True) -> Evaluator:
    score = partial(multiple_choice.evaluate, read=read, normalised=normalised)
    return Evaluator(score=score, url=url, sha256=sha256)


EVALUATORS = {
    "val": Evaluator(score=heldout.evaluate_text),
    "hellaswag": _choices(
        multiple_choice.hellaswag,
        f"{GITHUB}/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
        "",
    ),
    "lambada": Evaluator(
        score=lambada.evaluate,
        url="https://openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
        sha256="4aa8d02cd17c719165fc8a7887fddd641f43fcafa4b1c806ca8abc31fabdb226",
    ),
    "blimp": Evaluator(
        score=blimp.evaluate,
        url=f"{GITHUB}/alexwarstadt/blimp/3e56b06fcabca9b30822fc66435fca6b1aa40bb1/BLiMP.zip",
        sha256="172a1a714d72e72a89e8384dd531483f3d0f8a9aee3d33dccaf7992d8cecbb73",
    ),
    "blimp_supplement": Evaluator(score=blimp.evaluate),
    "piqa": _choices(
        multiple_choice.piqa,
        f"{FOUNDRY}/commonsense_reasoning/piqa.jsonl",
        "d2870e73aec5154df3faf259b7700876e11608eebdf69e9d6667435673dbe4e0",
    ),
    "arc_easy": _choices(
        multiple_choice.arc,
        f"{FOUNDRY}/world_knowledge/arc_easy.jsonl",
        "d2d12e59543acf9a5ef6079634a72b30215e36c2fd4236fff3bc855d287b87f5",
    ),
    "arc_challenge": _choices(
        multiple_choice.arc,
        f"{FOUNDRY}/world_knowledge/arc_challenge.jsonl",
        "1ae3aeedf1951d881cbd5c2e3a31e78a1993d251479afbe4cb413b6707244636",
    ),
    "winogrande": _choices(
        multiple_choice.winogrande,
        f"{FOUNDRY}/language_understanding/winogrande.jsonl",
        "ea1592526f3bfdd0948ed3acb1b4dfa3f83d23698917118688ee1df7f8d4b8d7",
        normalised=False,
    ),
    "copa": _choices(
        multiple_choice.copa,
        f"{FOUNDRY}/commonsense_reasoning/copa.jsonl",
        "595dca44dec54c849490bd403a3e24a29e3b944065783222ebb0eb1a55298846",
        normalised=False,
    ),
    "boolq": _choices(
        multiple_choice.boolq,
        f"{FOUNDRY}/reading_comprehension/boolq.jsonl",
        "454ff101e614370bb1807fe7ebbda6fdb57e794b9662cc1ccae211bf1ff626c8",
        normalised=False,
    ),
    "openbookqa": _choices(
        multiple_choice.openbookqa,
        f"{FOUNDRY}/commonsense_reasoning/openbook_qa.jsonl",
        "adb2e5c7f8db810ddad4d6b2bf53dcc86dcc545499f7aafcaf42a8e179476c09",
    ),
    "choice": _choices(multiple_choice.own, "", ""),
}


def evaluate(
    model: Trained | Transformer,
    encoding: tiktoken.Encoding,
    task: str,
    path: Path | None = None,
    limit: int | None = None,
    *,
    progress: Callable[[int, int], None] = silent,
) -> list[Score]:
    """Scores of a model on a task's file; `val` of a Trained without a path reads the run's own held-out tokens.

    A Trained computes in its run's precision; for a Transformer the caller's autocast holds, as while it is trained.
    limit: items, spread evenly over the file (sequences for val). progress: tokens done and tokens of all.
    """
    evaluator = EVALUATORS[task]
    trained = isinstance(model, Trained)
    scorer = Scorer(model=model.model if trained else model, encoding=encoding, progress=progress)
    bf16 = trained and use_bf16(model.run, scorer.device)
    with torch.autocast(scorer.device.type, torch.bfloat16) if bf16 else nullcontext():
        if path is not None:
            return evaluator.score(scorer, path, limit)
        if trained and task == "val":
            return heldout.evaluate_run(scorer, model.run, limit)
    raise UserError(missing(task))


def locate(
    task: str,
    given: Path | None,
    download: bool,
    progress: Callable[[int, int], None] = silent,
    say: Callable[[str], None] = print,
) -> Path | None:
    """The file of a task: the one given, the one in the cache, or fetched; None for the held-out tokens of a run. `say`
    hears of a file that could not be checked."""
    if given is not None:
        if not given.exists():
            raise UserError(f"There is no {given}, which --data gives for {task}.")
        return given
    if task == "val":
        return None
    if (found := cached(task)) is not None:
        return found
    evaluator = EVALUATORS[task]
    if not download or not evaluator.url:
        raise UserError(missing(task))
    return fetch(task, evaluator.url, evaluator.sha256, progress, say)


def missing(task: str) -> str:
    """Where the file of a task is to be had."""
    if url := EVALUATORS[task].url:
        return f"The file of {task} is missing: add --download to fetch {url}, or give it with --data {task}=PATH."
    return f"{task} needs a file of yours: give it with --data {task}=PATH."
