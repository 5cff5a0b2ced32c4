"""The report: of real shapes of histories, of many trials, of failures; looked at by a browser where there is one."""

from __future__ import annotations

import html.parser
import json
import math
import shlex
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from runs_made import ANSWER, TARGET, finished, planted, search, trials

from hpt import advise, report
from hpt.console import cli
from hpt.console.settings import SearchConfig
from hpt.reports.chart import Chart
from hpt.reports.final import final_headline, predicted_loss
from hpt.reports.further import further_commands, outlook_lines
from hpt.reports.gather import FinalFound, gather, gather_final
from hpt.reports.laws import laws
from hpt.reports.page import final_page
from hpt.reports.text import bill_rows
from search.budget import Budget, CostModel
from search.records import History, Problem, Recommendation, Trial
from search.strategy import Done
from search.transfer.outlook import outlook
from trainer.architecture.counts import parameters, run_flops
from trainer.config import to_dict
from trainer.errors import UserError


class Balanced(html.parser.HTMLParser):
    """Every tag closed, nothing fetched."""

    VOID = {"meta", "br", "img", "link"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}, attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_five_hundred_trials_make_a_small_page_soon(tmp_path: Path) -> None:
    path = search(tmp_path / "s", trials(500), ANSWER)
    began = time.perf_counter()
    assert report.main([str(path)]) == 0
    assert time.perf_counter() - began < 10
    page = (path / "report.html").read_text()
    assert len(page.encode()) < 3e6
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    assert "<b>0.004</b>" in page and "between 0.002 and 0.008" in page
    assert "a &lt;slope&gt; &amp; a doubt" in page and "measured &lt;b&gt;short" in page
    assert page.count("<figure>") >= 4 and page.count("<tr><td data-v") == 500
    drawing = page[: page.index("<script>")]
    for never in ("http://", "https://", "nan", "inf,"):
        assert never not in drawing.lower()


def test_markdown_and_latex(tmp_path: Path) -> None:
    path = search(tmp_path / "s", trials(30), ANSWER)
    assert report.main([str(path), "--format", "md"]) == report.main([str(path), "--format", "latex"]) == 0
    text = (path / "report.md").read_text()
    assert "**0.004**" in text and "![u curves](u_curves.svg)" in text and text.count("| t00") == 30
    ElementTree.parse(path / "u_curves.svg")  # whole and well-formed
    assert "var(" not in (path / "u_curves.svg").read_text()
    tex = (path / "report.tex").read_text()
    assert tex.count(r"\begin{tabular}") == 2 and r"\% of the final run" in tex and " % " not in tex


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_search_without_an_answer_still_has_a_page(status: str, tmp_path: Path) -> None:
    lost = [replace(t, status=status, loss=None, curve=()) for t in trials(6)]
    path = search(tmp_path / "s", lost, Recommendation(lr=None, reasons=("All trials were lost.",)))
    assert report.main([str(path)]) == 0
    page = (path / "report.html").read_text()
    assert "No learning rate can be recommended" in page and "All trials were lost." in page
    under_way = search(tmp_path / "u", [], None)
    assert report.main([str(under_way)]) == 0
    assert "still under way" in (under_way / "report.html").read_text()


def test_a_final_run(tmp_path: Path) -> None:
    source = search(tmp_path / "s", trials(9), ANSWER)
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps(to_dict(replace(TARGET, lr=4e-3))))
    with pytest.raises(UserError, match="has no result yet"):
        report.main([str(run)])
    curve = [(k * 10_000, 4 + 3 / k) for k in range(1, 30)]
    result = {"status": "finished", "reason": "", "loss": 4.1, "bits_per_byte": 1.7, "seconds": 60, "curve": curve[::5]}
    result |= {"train_curve": curve, "lr_curve": curve, "grad_norm_curve": curve, "checkpoint": "x"}
    result["scores"] = [(10_000, {"hellaswag/acc": 0.25}), (290_000, {"hellaswag/acc": 0.27})]
    (run / "result.json").write_text(json.dumps(result))
    (run / "origin.json").write_text(json.dumps({"id": "i", "search": str(source)}))
    (run / "samples.txt").write_text("if a < b: <script>")
    assert report.main([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert page.count("<figure>") == 4
    assert "&lt;script&gt;" in page
    assert "between 0.002 and 0.008" in page
    with pytest.raises(UserError, match="neither a search"):
        report.main([str(tmp_path)])


@pytest.mark.parametrize("width", [1100, 500])
def test_a_browser_shows_it_without_complaint(width: int, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium here")
    path = search(tmp_path / "s", trials(60), ANSWER)
    report.main([str(path)])
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [
        f"--screenshot={tmp_path / 'page.png'}",
        f"--window-size={width},1600",
        f"--user-data-dir={tmp_path / 'p'}",
    ]
    done = subprocess.run(
        [*command, (path / "report.html").as_uri()], capture_output=True, text=True, timeout=90, check=False
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert len((tmp_path / "page.png").read_bytes()) > 40_000


@pytest.mark.parametrize("law", ["power in N: lr = a N^b", "batch-conditional law"])
def test_the_law_is_drawn_and_the_plan_is_set_beside_what_was_made(law: str, tmp_path: Path) -> None:
    found = gather(planted(tmp_path / "s", law))
    n = parameters(TARGET.model).non_embedding
    lines = laws(found, "N", n / 10, n)
    used = [line for line in lines if line.used]
    assert len(used) == 1 and (len(lines) > 3) == law.startswith("power") and not laws(found, "D", 1e5, 1e6) == lines
    assert used[0].line[0][1] > used[0].line[-1][1] and all(a <= b <= c for (_, b), (_, a, c) in zip(
        used[0].line, used[0].band, strict=True))  # fmt: skip
    if law.startswith("power"):
        assert used[0].line[-1][1] == pytest.approx(3e-3 * (1.2 * n / 1e5) ** -0.5, rel=0.1)
    headers, rows = bill_rows(found)
    by_stage = {row[0]: dict(zip(headers, row, strict=True)) for row in rows}
    assert by_stage["1x16"]["trials planned"] == "6" and by_stage["1x16"]["made"] == "5"
    assert by_stage["never"]["made"] == "0" and by_stage["2x32"]["trials planned"] == ""
    assert by_stage["total"]["trials planned"] == "12" and by_stage["total"]["made"] == "15"
    more, held = outlook_lines(found)
    assert "would narrow" in more and "batch, weight decay, warmup, seed, number of tokens" in held
    assert report.main([str(tmp_path / "s")]) == 0
    page = (tmp_path / "s" / "report.html").read_text()
    assert "What was not tried" in page and ("rejected" in page) == law.startswith("power")


def test_more_trials_narrow_the_doubt_and_none_is_no_outlook(tmp_path: Path) -> None:
    found = gather(planted(tmp_path / "s", "none"))
    more = outlook(found.history)
    assert more is not None and 0 < more.after < more.now and more.cost.flops <= 0.25 * run_flops(TARGET)
    assert outlook(replace(found.history, trials=())) is None
    cut = tuple(replace(t, horizon=t.horizon // 2) for t in found.history.trials)
    assert outlook(replace(found.history, trials=cut)) is None


def test_dots_beyond_the_frame_are_marked_at_its_border() -> None:
    chart = Chart("x", "y", y_range=(1.0, 2.0))
    chart.dots([(1e-3, 1.5), (1e-2, 9.0), (1e-1, 0.1)], 0, ["inside", "above", "below"])
    drawn = chart.drawing()
    assert drawn.count("<circle") == 1 and "l5 7h-10z" in drawn and "l5 -7h-10z" in drawn
    assert all(f"<title>{word}</title>" in drawn for word in ("inside", "above", "below"))


def test_final_runs_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = finished(tmp_path / "gpt")
    two = finished(tmp_path / "bert", "family=bert", "model.vocabulary=4097", loss=3.0, bits_per_byte=None)
    evaluations = {"blimp": {"scores": [{"name": "acc", "value": 0.875, "standard_error": 0.01, "count": 100}]}}
    (two / "evaluations.json").write_text(json.dumps(evaluations))
    assert report.main(["--compare", str(one), str(two)]) == 0
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<figure>") == 3  # loss against tokens and FLOPs, and the task
    assert "other objectives (masked, next)" in page and "9,600" in page and "0.875" in page and "20.5k" in page
    assert report.main(["--compare", str(one), str(two), "--format", "latex"]) == 0
    assert r"\toprule" in (tmp_path / "comparison.tex").read_text()
    for flags, match in [
        (["--compare", str(one)], "needs two final runs or more"),
        (["--compare", str(one), str(tmp_path)], "is no final run"),
        ([str(one), "--compare", str(two)], "put it behind --compare"),
        (["--compare", str(one), str(two), "--format", "md"], "leave --format md out"),
        ([], "Give the directory of a search or a final run"),
    ]:
        with pytest.raises(UserError, match=match):
            report.main(flags)


def ended(folder: Path, name: str, source: Path, lr: float, **result: object) -> FinalFound:
    """A final run at the search's target."""
    path = finished(folder / name, **result)
    (path / "run.json").write_text(json.dumps(to_dict(replace(TARGET, lr=lr))))
    (path / "origin.json").write_text(json.dumps({"id": "i", "search": str(source)}))
    (path / "samples.txt").write_text("Once upon a time")
    return gather_final(path)


def test_a_final_runs_page_says_in_a_sentence_how_it_ended(tmp_path: Path) -> None:
    """Against what runs of the same size, tokens and batch let one expect; where there are none, against nothing."""
    lrs = [1e-3 * 2**k for k in range(5)]
    whole = [
        Trial(id=f"w{k}", run=replace(TARGET, lr=lr), horizon=TARGET.tokens, status="finished", seconds=4.0,
              loss=4 + 0.05 * math.log(lr / 4e-3) ** 2, flops=1e10)
        for k, lr in enumerate(lrs)
    ]  # fmt: skip
    source = search(tmp_path / "s", whole, ANSWER)
    found = ended(tmp_path, "good", source, 4e-3, loss=3.9, usd=0.4, seconds=101.0)
    expected = predicted_loss(found)
    assert expected == pytest.approx(4.0, abs=0.02)
    assert (
        final_headline(found) == f"3.9000 nats a token, {expected - 3.9:.3f} better than predicted; $0.40; 1 min 41 s."
    )
    off = predicted_loss(ended(tmp_path, "off", source, 1.6e-2, loss=4.5))
    assert off is not None and off > expected + 0.05  # at its own lr
    assert "worse than predicted" in final_headline(ended(tmp_path, "worse", source, 4e-3, loss=4.5))
    page = final_page(found)
    assert "better than predicted" in page and "<details><summary>" in page and "<td>0.40</td>" in page
    assert "hpt.generate" in page and "hpt.ui" in page and ">predicted</span>" in page
    parser = Balanced()
    parser.feed(page)
    assert not parser.open
    short_ones = [replace(t, horizon=TARGET.tokens // 10) for t in whole]
    other = ended(tmp_path, "unknown", search(tmp_path / "t", short_ones, ANSWER), 4e-3, loss=3.9)
    assert predicted_loss(other) is None and final_headline(other) == "3.9000 nats a token; 1 min 0 s."
    lost = ended(tmp_path, "lost", source, 4e-3, loss=None, status="diverged", reason="loss is nan", usd=0.1)
    assert final_headline(lost) == "Diverged at step 300 of 600: loss is nan. $0.10; 1 min 0 s."


def test_suggested_trials_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command's search has just the runs that were suggested, and hpt.advise reads what they leave."""
    source = planted(tmp_path / "s", "none")
    found = gather(source)
    more = outlook(found.history)
    assert more is not None
    smallest = min(parameters(run.model).non_embedding for run, _ in more.runs)
    assert smallest > parameters(TARGET.model).non_embedding / 32
    *grids, joined, advised = further_commands(found, more)
    assert len(grids) == len(more.runs)
    for line, (run, lrs) in zip(grids, more.runs, strict=True):
        config = cli.parse(SearchConfig, shlex.split(line)[3:], "hpt.search")
        target = config.build_target()
        assert target == replace(run, lr=None, seed=0, micro_batch=target.micro_batch)
        budget = Budget(flops=(config.budget_runs or 0) * run_flops(target))
        problem = Problem(target=target, budget=budget, cost=CostModel(), lr_range=config.lr_range)
        proposals = config.build_strategy().ask(History(problem=problem), 99)
        assert not isinstance(proposals, Done)
        got = [p.lr for p in proposals]
        assert len(got) == len(lrs) and got[0] == pytest.approx(min(lrs), rel=0.01)
        assert got[-1] == pytest.approx(max(lrs), rel=0.01)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "searches" / "s-more-1").mkdir(parents=True)
    shutil.copy(source / "trials.jsonl", tmp_path / "searches" / "s-more-1" / "trials.jsonl")
    assert subprocess.run(joined, shell=True, check=False).returncode == 0
    assert advise.main(shlex.split(advised)[3:]) == 0


def test_transfer_is_given_more_budget_and_somebody_elses_trainer_no_commands(tmp_path: Path) -> None:
    found = gather(planted(tmp_path / "s", "none"))
    more = outlook(found.history)
    own = replace(found, search={**found.search, "strategy": "transfer", "budget_usd": 8.0})
    (line,) = further_commands(own, more)
    config = cli.parse(SearchConfig, [*shlex.split(line)[5:], "--usd-per-hour", "1"], "hpt.search")
    assert line.startswith("python -m hpt.search --resume") and 8.0 < (config.budget_usd or 0) <= 16.0
    assert not further_commands(replace(found, search={**found.search, "trainer": "nanogpt"}), more)
    assert not further_commands(found, None)
    assert not further_commands(replace(found, search={**found.search, "target": "gone.toml"}), more)
