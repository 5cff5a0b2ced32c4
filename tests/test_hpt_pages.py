"""Every page that hpt writes, looked at by a browser: wide, on a tablet, on a phone; light and dark."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from browser import Browser
from runs_made import ANSWER, finished, planted, search, trials
from test_hpt_inspect import made

from hpt import inspect, report
from hpt.reports.chart import DARK, LIGHT
from hpt.studies.verdicts import page as ablation_page
from hpt.studies.verdicts import verdict_of

pytestmark = pytest.mark.slow  # seconds a page

WIDTHS = (1400, 800, 390)
KINDS = ("search", "law", "final", "comparison", "ablation", "inspect")


def ablation() -> str:
    rows = [
        {"variant": name, "level": level, "seed": seed, "flops": level * 1e12, "seconds": level * 9.0, "metrics": {},
         "loss": 4.0 - 0.3 * level**0.5 + gap + 0.01 * seed + 0.004 * ((7 * seed + len(name) + 4 * level) % 5)}
        for name, gap in (("baseline", 0.0), ("swiglu", -0.05), ("two bases of rope", 0.02))
        for level in (0.25, 1.0, 4.0) for seed in (0, 1)
    ]  # fmt: skip
    verdicts = {name: {"loss": verdict_of(rows, name)} for name in ("swiglu", "two bases of rope")}
    return ablation_page(rows, verdicts, {name: mine["loss"].sentence() for name, mine in verdicts.items()})


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("pages")
    one, two = finished(folder / "gpt"), finished(folder / "bert", "family=bert", "model.vocabulary=4097", loss=3.0)
    (two / "samples.txt").write_text("Once upon a time there was a model. " * 20)
    paths = {
        "search": search(folder / "mine", trials(60), ANSWER), "law": planted(folder / "law", "power in N: lr = a N^b"),
        "final": two,
    }  # fmt: skip
    for path in paths.values():
        report.main([str(path)])
    found = {name: (path / "report.html").read_text() for name, path in paths.items()}
    out = folder / "comparison.html"
    report.main(["--compare", str(one), str(two), "--out", str(out)])
    model, text = made(folder / "model", []), folder / "text.txt"
    text.write_text("the man in the snow sees the other man\n" * 80)
    inspect.main([str(model), "--prompt", "the man of snow", "--corpus", str(text), "--out", str(folder / "in.html")])
    return found | {"comparison": out.read_text(), "ablation": ablation(), "inspect": (folder / "in.html").read_text()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser(tmp_path_factory.mktemp("browser"))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_small_or_cut(kind: str, pages: dict[str, str], browser: Browser) -> None:
    """No page scrolls sideways, no word is below 12 px, charts included as they are drawn, or lies on another."""
    for width in WIDTHS:
        found = browser.measured(pages[kind], width)
        assert found.shown == width and found.wide == width, f"{kind} at {width} px is {found.wide} px wide"
        assert not found.small and not found.over and not found.words, (kind, width, found)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_drawn_light_and_dark(kind: str, pages: dict[str, str], browser: Browser, tmp_path: Path) -> None:
    """HPT_PICTURES=DIR keeps what the browser drew, to be looked at."""
    kept = Path(os.environ.get("HPT_PICTURES", tmp_path))
    for width in WIDTHS:
        high = browser.measured(pages[kind], width).high
        for dark, colours in ((False, LIGHT), (True, DARK)):
            path = kept / f"{kind}-{width}-{'dark' if dark else 'light'}.png"
            drawn = matplotlib.image.imread(browser.picture(pages[kind], width, high, dark, path))[..., :3]
            ground = colours["bg"].lstrip("#")
            ground = "".join(2 * c for c in ground) if len(ground) == 3 else ground
            expected = [int(ground[k : k + 2], 16) / 255 for k in (0, 2, 4)]
            assert np.allclose(drawn[2, 2], expected, atol=0.02), "the page's own ground"
            assert len(np.unique(drawn[::3, ::3].reshape(-1, 3), axis=0)) > 50, "something is drawn"


POINTS = """
const s=[...d.querySelectorAll('svg')].find(s=>s.getClientRects().length&&s.querySelector('.point'));
const said=[],read=s.closest('figure').querySelector('.read'),points=[...s.querySelectorAll('.point')];
const key=(e,k)=>e.dispatchEvent(new f.contentWindow.KeyboardEvent('keydown',{key:k,bubbles:true}));
const at=()=>said.push([read.textContent,d.activeElement.getBoundingClientRect().x]);
points.find(p=>p.tabIndex===0).focus();at();for(let k=0;k<3;k++){key(d.activeElement,'ArrowRight');at()}
const figure=s.closest('figure'),button=figure.querySelector('button'),
wide=()=>Math.max(...[...figure.querySelectorAll('svg')].map(s=>s.getBoundingClientRect().width));
const before=wide();button.click();const large=wide();key(button,'+');const zoomed=wide();key(button,'Escape');
return {said,stops:points.filter(p=>p.tabIndex===0).length,before,large,zoomed,after:wide()}
"""


def test_points_are_read_and_charts_enlarged_by_keyboard(pages: dict[str, str], browser: Browser) -> None:
    """One stop of Tab a chart; arrows go on to the right; the enlarged chart fills the window and grows."""
    found = browser.asked(pages["search"], 1400, POINTS)
    assert found["stops"] == 1 and all(words.startswith("lr ") and "tokens" in words for words, _ in found["said"])
    places = [x for _, x in found["said"]]
    assert places == sorted(places) and len(set(places)) > 2
    assert found["before"] == found["after"] < 700 < 1300 < found["large"] < found["zoomed"]
