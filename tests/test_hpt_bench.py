"""The bench command at tiny sizes: what it times does what it says, and the figures are written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpt.bench import main
from hpt.benches.common import Options, shapes
from hpt.benches.search import HYPERBAND, problem_of
from hpt.benches.step import fp32_step, plain_step
from search.records import History
from trainer.config import RunConfig
from trainer.data import Prepared
from trainer.data.synthetic import random_data
from trainer.errors import UserError
from trainer.families import FAMILIES
from trainer.presets import laptop

OPTIONS = Options(device=torch.device("cpu"), quick=True)

STAND_IN = '''
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    bias: bool


def part(**modules):
    return nn.ModuleDict(modules)


class GPT(nn.Module):
    """Only what is asked of nanoGPT's: names of parameters, loss of a batch, its optimiser."""

    def __init__(self, c):
        super().__init__()
        w, self.c = c.n_embd, c
        layer = lambda: part(
            ln_1=nn.LayerNorm(w), attn=part(c_attn=nn.Linear(w, 3 * w), c_proj=nn.Linear(w, w)),
            ln_2=nn.LayerNorm(w), mlp=part(c_fc=nn.Linear(w, 4 * w), c_proj=nn.Linear(4 * w, w)),
        )
        self.transformer = part(
            wte=nn.Embedding(c.vocab_size, w), wpe=nn.Embedding(c.block_size, w),
            h=nn.ModuleList(layer() for _ in range(c.n_layer)), ln_f=nn.LayerNorm(w),
        )

    def forward(self, tokens, targets):
        t, c = self.transformer, self.c
        B, T = tokens.shape
        x = t.wte(tokens) + t.wpe.weight[:T]
        for h in t.h:
            q, k, v = (
                p.view(B, T, c.n_head, -1).transpose(1, 2) for p in h.attn.c_attn(h.ln_1(x)).split(c.n_embd, dim=2)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + h.attn.c_proj(y.transpose(1, 2).reshape(B, T, -1))
            x = x + h.mlp.c_proj(F.gelu(h.mlp.c_fc(h.ln_2(x))))
        logits = t.ln_f(x) @ t.wte.weight.T
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        print("number of parameters")
        groups = [{"params": [p for p in self.parameters() if (p.dim() > 1) == decays], "weight_decay": decay}
                  for decays, decay in ((True, weight_decay), (False, 0.0))]
        return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)
'''


@pytest.fixture(scope="module")
def quick() -> Iterator[tuple[RunConfig, Prepared]]:
    run = shapes(OPTIONS)["quick"]
    with random_data(run.model.vocabulary, 8 * run.batch) as data:
        yield run, data


def sections(path: Path) -> dict[str, Any]:
    return {name: part["rows"] for name, part in json.loads(path.read_text())["sections"].items()}


def test_all_that_needs_a_gpu_runs_at_tiny_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "--quick", "--repeats", "1", "--device", "cpu", "--out", str(tmp_path / "out.json")]) == 0
    found = sections(tmp_path / "out.json")
    assert list(found) == ["step", "cohort", "data"]
    assert [row["way"] for row in found["step"]] == ["plain", "ours fp32", "ours"]
    assert all(row["tokens_per_second"] > 0 and row["mfu"] > 0 for row in found["step"])
    assert [row["way"] for row in found["cohort"]] == ["alone", "fused", "in turn", "processes sharing"]
    assert found["cohort"][-1]["startup"] > found["cohort"][-1]["ms_each"] / 1e3 > 0
    alone, fused = found["cohort"][:2]
    assert fused["vs_alone"] == pytest.approx(alone["ms_each"] / fused["ms_each"])
    assert "ours fp32" in capsys.readouterr().out


def test_the_plain_step_trains_the_same_model(quick: tuple[RunConfig, Prepared]) -> None:
    run = replace(quick[0], lr=1e-2, weight_decay=0.0, schedule="constant")
    plain, ours = (make(run, quick[1], OPTIONS.device) for make in (plain_step, fp32_step))
    for _ in range(5):
        assert float(plain()) == pytest.approx(float(ours()[0]), abs=1e-4)


def test_beside_a_checkout_losses_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.py").write_text(STAND_IN)
    out = tmp_path / "out.json"
    assert main(["nanogpt", "--quick", "--device", "cpu", "--out", str(out), "--nanogpt", str(tmp_path)]) == 0
    theirs, ours = sections(out)["nanogpt"]
    assert (theirs["way"], ours["way"]) == ("nanoGPT", "ours") and ours["speedup"] > 0
    assert ours["largest_difference"] < 1e-3 and ours["loss"] == pytest.approx(theirs["loss"], abs=1e-3)
    assert "number of parameters" not in capsys.readouterr().out


def test_what_is_asked_wrongly_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --nanogpt PATH"):
        main(["nanogpt"])
    with pytest.raises(UserError, match="is no nanoGPT checkout: it has no model.py"):
        main(["nanogpt", "--quick", "--nanogpt", str(tmp_path)])


def test_families_are_timed_against_gpt2(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    flags = ["--quick", "--repeats", "1", "--device", "cpu", "--out", str(out)]
    assert main(["step", "--family", "all", *flags]) == 0
    rows = sections(out)["step"]
    assert [row["family"] for row in rows] == list(FAMILIES) and rows[0]["against_gpt2"] == 1
    for row in rows:
        ratio = row["gflops"] / row["ms"] / (rows[0]["gflops"] / rows[0]["ms"])
        assert row["against_gpt2"] == pytest.approx(ratio)
    with pytest.raises(UserError, match="no family of models called 'bart': did you mean bert"):
        main(["step", "--family", "bart", *flags])


def test_no_shape_begins_after_the_time_is_up(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["step", "--quick", "--device", "cpu", "--minutes", "1e-9", "--out", str(out)]) == 0
    assert sections(out) == {"step": []}


def test_the_search_that_is_raced_has_a_hundred_trials_or_more() -> None:
    stages = HYPERBAND.plan(History(problem=problem_of(laptop())))
    assert sum(stage.trials for stage in stages) == 127


@pytest.mark.slow
def test_through_ray(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert main(["overhead", "search", "--quick", "--device", "cpu", "--out", str(out)]) == 0
    (overhead,), (ours, theirs) = sections(out).values()
    assert overhead["finished"] == overhead["trials"] == 12 and overhead["ms_a_trial"] > 0
    assert ours["trials"] == ours["same_endings"] == 6 and ours["largest_difference"] < 1e-6
    assert ours["best_lr"] == theirs["best_lr"] and ours["tokens"] < theirs["tokens"]
