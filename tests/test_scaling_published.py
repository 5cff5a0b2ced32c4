"""pytest tests/test_scaling_published.py"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from scaling.published import (
    BATCH_LAWS,
    LR_LAWS,
    Prediction,
    Scale,
    critical_batch,
    deepseek,
    deepseek_batch,
    kaplan,
    minicpm_batch,
    mixture,
    out_of_range,
    porian,
    predict_all,
    predict_batches,
    step_law,
    step_law_batch,
    timescale,
    weight_decay,
)  # fmt: skip

GPT2 = Scale(n_total=124.4e6, n_non_embedding=85.06e6, n_layers=12, width=768, context=1024, D=2.5e9, B=2**19)


def test_step_law_is_the_mean_of_its_bootstrap() -> None:
    """Means of 1,000 bootstrap fits in the authors' repository: intercepts are of ln."""
    for n, d in ((214_663_680, 4e9), (429_260_800, 5e10), (1.07e9, 1e11)):
        s = replace(GPT2, n_non_embedding=n, D=d)
        assert math.log(step_law(s)) == pytest.approx(0.5863 - 0.7129 * math.log(n) + 0.3075 * math.log(d), abs=0.02)
        assert math.log(step_law_batch(s)) == pytest.approx(-0.5435 + 0.5709 * math.log(d), abs=0.02)


def test_deepseek_gives_its_own_models() -> None:
    """7B: used 4.2e-4 and 9.44M tokens; 67B: used 3.2e-4. Both 2T tokens of context 4096."""
    small = Scale(
        n_total=6.9e9,
        n_non_embedding=6.5e9,
        n_layers=30,
        width=4096,
        context=4096,
        D=2e12,
        B=9.44e6,
    )
    large = replace(small, n_layers=95, width=8192)
    assert deepseek(small) == pytest.approx(4.246e-4, rel=2e-3)
    assert deepseek_batch(small) == pytest.approx(9.22e6, rel=5e-3)
    assert deepseek(large) == pytest.approx(3.12e-4, rel=1e-2)


def test_what_the_laws_say_of_gpt2_124m() -> None:
    assert kaplan(GPT2) == pytest.approx(6.9e-4, rel=0.01)
    six_nd = replace(GPT2, context=0)  # without the attention term C is 6 N D
    assert deepseek(six_nd) == pytest.approx(1.70e-3, rel=0.01)
    assert deepseek_batch(six_nd) == pytest.approx(244e3, rel=0.01)
    assert deepseek(GPT2) == pytest.approx(1.66e-3, rel=0.01)
    assert step_law(GPT2) == pytest.approx(3.05e-3, rel=0.01)
    assert step_law_batch(GPT2) == pytest.approx(135e3, rel=0.02)
    assert porian(GPT2) == pytest.approx(4.5e-3, rel=0.01)
    assert timescale(124e6, 20 * 124e6) == pytest.approx(0.223, abs=1e-3)
    assert weight_decay(124e6, 2.5e9, 2**19, 1.8e-3) == pytest.approx(0.52, abs=0.01)
    assert critical_batch(3.3) == pytest.approx(680e3, rel=0.05)
    assert minicpm_batch(3.0) == pytest.approx(1.21e9 / 3**6.24)


def test_ranges_are_said() -> None:
    laws = {law.name: law for law in LR_LAWS}
    assert "N=8.51e+07 where 2e+08" in out_of_range(laws["Step Law"], GPT2)
    assert out_of_range(laws["Step Law"], replace(GPT2, n_non_embedding=5e8, D=1e10)) == ""
    assert "C=" in out_of_range(laws["DeepSeek"], replace(GPT2, D=1e12))
    assert all(law.source and law.formula and law.setup for law in LR_LAWS + BATCH_LAWS)
    assert kaplan(replace(GPT2, n_non_embedding=2e10)) is None


def test_the_mixture_is_wide_where_the_laws_disagree() -> None:
    found = predict_all(GPT2)
    assert [p.name for p in found if p.in_range] == ["Kaplan", "DeepSeek", "Porian"]
    assert found[0].log_value == pytest.approx(math.log(6.9e-4), abs=0.01) and found[0].note
    mean, sd = mixture(found)
    assert 1e-3 < math.exp(mean) < 2.5e-3, "hand-tuned practice is 1.5e-3 to 1.8e-3"
    values = [p.log_value for p in found]
    assert 0.7 < sd < 2 and min(values) > mean - 2 * sd and max(values) < mean + 2 * sd
    alike = [
        Prediction(name=name, log_value=value, in_range=True, note="") for name, value in (("a", -7.0), ("b", -7.1))
    ]
    far = Prediction(name="c", log_value=-5.0, in_range=False, note="")
    assert 0.5 <= mixture(alike)[1] < 0.55
    assert mixture(alike[:1]) == (-7.0, 1.0)
    assert mixture([*alike, far])[0] < (-7 - 7.1 - 5) / 3
    with pytest.raises(ValueError, match="No published law"):
        mixture([])


@pytest.mark.parametrize("n, d", [(1e5, 2e6), (1e8, 2e9), (7e9, 2e12), (4e11, 1.5e13)])
def test_every_scale_has_predictions(n: float, d: float) -> None:
    s = replace(GPT2, n_total=n, n_non_embedding=n, D=d)
    for p in predict_all(s):
        assert 1e-6 < math.exp(p.log_value) < 1
    assert all(1e3 < math.exp(p.log_value) < 1e10 for p in predict_batches(s))
