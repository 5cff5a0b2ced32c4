"""Targets as files, and tokens as a multiple of the parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpt.console.settings import SearchConfig, from_json, to_json
from scaling.compute_optimal import LAW
from trainer.architecture.counts import parameters
from trainer.errors import UserError
from trainer.presets import PRESETS, preset
from trainer.targets import write_target


@pytest.mark.parametrize("name", PRESETS)
def test_a_saved_target_is_read_as_it_was(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    write_target(path, preset(name))
    assert preset(str(path)) == preset(name)


def test_a_file_names_what_differs_from_its_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "gpt2-124m"\ntokens = 2.5e9\nbetas = [0.9, 0.99]\n[model]\ndepth = 10\n[data]\nepochs = 2\n'
    )
    found, base = preset(str(path)), preset("gpt2-124m")
    assert (found.tokens, found.betas, found.model.depth, found.data.epochs) == (2_500_000_000, (0.9, 0.99), 10, 2)
    assert found.warmup / found.tokens == pytest.approx(base.warmup / base.tokens, rel=1e-6)
    same = replace(base, tokens=found.tokens, betas=found.betas, warmup=found.warmup)
    assert replace(found, model=base.model, data=base.data) == same


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('base = "gpt2-124m"\n[model]\ndept = 3', "no field model.dept: did you mean model.depth"),
        ('base = "gpt2-124m"\ntoken = 3', "did you mean tokens"),
        ('base = "gpt2-125m"', "did you mean gpt2-124m"),
        ('base = "gpt2-124m"\nlr = 1e-3', "searched for"),
        ('base = "gpt2-124m"\nmodel = 3', "is a table"),
        ('base = "gpt2-124m"\n[model]\ndepth = "x"', "mine.toml"),
        ('base = "gpt2-124m"\n[model]\ndepth = 2.5', "mine.toml"),
        ("tokens = 5", "mine.toml"),
        ("base = 3", "name of a preset"),
        ("x = = 3", "cannot be read as TOML"),
    ],
)
def test_what_a_file_cannot_say(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        preset(str(path))


def test_a_search_keeps_its_target(tmp_path: Path) -> None:
    path, directory = tmp_path / "mine.toml", tmp_path / "search"
    path.write_text('base = "laptop"\ntokens = 409600\n')
    config = SearchConfig(target=str(path), batch=2048)
    wanted = config.build_target()
    write_target(directory / "target.toml", preset(config.target))
    path.write_text('base = "laptop"\n')
    assert from_json(to_json(config), directory).build_target() == wanted


def test_tokens_by_the_parameters() -> None:
    n = parameters(preset("gpt2-124m").model).total
    run = SearchConfig(target="gpt2-124m", tokens="20x").build_target()
    assert run.tokens == round(20 * n / run.batch) * run.batch == run.steps * run.batch
    small = SearchConfig(target="gpt2-124m", tokens="20x", set=("model.depth=6",)).build_target()
    assert small.tokens == round(20 * parameters(small.model).total / run.batch) * run.batch
    best = SearchConfig(target="gpt2-124m", tokens="optimal")
    assert best.build_target().tokens / n == pytest.approx(LAW.tokens(n) / n, rel=0.01)
    assert "Besiroglu" in best.counted and "20x N" in SearchConfig(tokens="20x").counted


def test_the_optimum_is_one() -> None:
    """Of all (N, D) with the same 6 N D, the law's own loss is least there."""

    def loss(n: float, d: float) -> float:
        return 1.8172 + 482.01 / n**0.3478 + 2085.43 / d**0.3658

    for n in (1e8, 1e9, 1e10):
        d = LAW.tokens(n)
        assert all(loss(n, d) < loss(n * k, d / k) for k in (0.9, 0.99, 1.01, 1.1))
    assert 15 < LAW.tokens(70e9) / 70e9 < 25


@pytest.mark.parametrize("tokens", ["20", "x", "-3x", "nanx", "best", "1e99x"])
def test_what_is_no_number_of_tokens(tokens: str) -> None:
    with pytest.raises(UserError, match="--tokens"):
        SearchConfig(tokens=tokens)
