"""Branch-Train-Merge: averages, greedy soups and ensembles against plain loops; the command on real experts."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpt import merge
from trainer.checkpoints.trained import keep_tokenizer, open_trained
from trainer.config import DataConfig, ModelConfig, RunConfig
from trainer.data import prepare
from trainer.errors import UserError
from trainer.loop import Training
from trainer.merge import average, greedy_soup, mixture


def test_an_average_is_weighted_and_of_itself_is_itself() -> None:
    a, b = {"w": torch.tensor([1.0, 3.0])}, {"w": torch.tensor([5.0, 7.0])}
    assert torch.equal(average([a, a], [1, 1])["w"], a["w"])
    torch.testing.assert_close(average([a, b], [3, 1])["w"], torch.tensor([2.0, 4.0]))


def test_a_greedy_soup_is_never_worse_than_its_best() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        experts = [{"w": torch.randn(6, generator=generator)} for _ in range(5)]
        loss = lambda e: float((e["w"] ** 2).sum())  # noqa: E731
        soup, taken = greedy_soup(experts, loss)
        assert loss(soup) <= min(map(loss, experts)) + 1e-6
        assert taken[0] == min(range(5), key=lambda i: loss(experts[i]))


def test_the_mixture_is_bayes_rule_token_by_token() -> None:
    generator = torch.Generator().manual_seed(0)
    logp = -3 * torch.rand(2, 5, 3, generator=generator, dtype=torch.float64)
    found = mixture(logp)
    for row in range(2):
        weights = [1 / 3] * 3
        for t in range(5):
            p = [math.exp(v) for v in logp[row, t].tolist()]
            mixed = sum(w * v for w, v in zip(weights, p, strict=True))
            assert found[row, t].item() == pytest.approx(math.log(mixed))
            weights = [w * v / mixed for w, v in zip(weights, p, strict=True)]
    torch.testing.assert_close(mixture(logp[..., :1]), logp[..., 0])  # of one expert: itself


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs from one seed, each trained on words of its own."""
    place = tmp_path_factory.mktemp("experts")
    rng = random.Random(0)
    for name, words in (("numbers", ["one two", "three four"]), ("letters", ["alpha beta", "gamma delta"])):
        with open(place / f"{name}.jsonl", "w") as file:
            for _ in range(60):
                file.write(json.dumps({"text": " ".join(rng.choice(words) for _ in range(150))}) + "\n")
    (place / "both").mkdir()
    for name in ("numbers", "letters"):
        (place / "both" / f"{name}.jsonl").write_text((place / f"{name}.jsonl").read_text())
    both = DataConfig(corpus=str(place / "both"), tokenizer="bpe:300", val_tokens=512, epochs=99)
    both = replace(both, tokenizer=prepare(both).tokenizer)
    model = ModelConfig(depth=1, width=32, heads=2, context=32, vocabulary=300)
    run = RunConfig(model=model, data=both, tokens=128 * 60, batch=128, lr=3e-3)
    seed = Training(run, prepare(both))
    list(seed.reports())
    for name in ("numbers", "letters"):
        data = replace(both, corpus=str(place / f"{name}.jsonl"))
        branch = Training(replace(run, data=data, tokens=128 * 20), prepare(data))
        branch.restore(seed.tensors(), "the seed", moments=False)
        list(branch.reports())
        branch.save(place / f"run-{name}" / "checkpoints" / "step-00000060.safetensors")
        keep_tokenizer(place / f"run-{name}", prepare(data))
    return place / "run-numbers", place / "run-letters"


def test_the_command(experts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = list(map(str, experts))
    assert merge.main([*runs, "--out", str(tmp_path / "merged")]) == 0
    assert "cosine" not in capsys.readouterr().out  # they share their seed
    found = json.loads((tmp_path / "merged" / "merge.json").read_text())
    own = [found["losses"][name][i] for i, name in enumerate(runs)]
    strange = [found["losses"][name][1 - i] for i, name in enumerate(runs)]
    ensemble = found["losses"]["ensemble"]
    assert all(s > o for s, o in zip(strange, own, strict=True))
    assert all(e < (s + o) / 2 for e, s, o in zip(ensemble, strange, own, strict=True))
    assert open_trained(tmp_path / "merged").step == 20
    assert merge.main([*runs, "--out", str(tmp_path / "soup"), "--method", "greedy"]) == 0
    soup = json.loads((tmp_path / "soup" / "merge.json").read_text())
    means = {name: sum(v) / 2 for name, v in soup["losses"].items()}
    assert means["average"] <= min(means[name] for name in runs) + 1e-4


def test_bad_input(experts: tuple[Path, Path], tmp_path: Path) -> None:
    runs, out = list(map(str, experts)), ["--out", str(tmp_path / "x")]
    for flags, match in [
        ([runs[0], *out], "two or more"),
        ([*runs, *out, "--method", "weighted"], "go together"),
        ([*runs, *out, "--method", "weighted", "--weights", "1"], "needs 2 numbers"),
        ([runs[0], str(tmp_path), *out], "holds no checkpoint"),
    ]:
        with pytest.raises(UserError, match=match):
            merge.main(flags)
