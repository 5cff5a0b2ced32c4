"""Plans for devices that are not here: no data, no network, no Ray, and what is assumed is said."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hpt.cost
import hpt.search
from trainer.errors import UserError
from trainer.hardware import DEVICES, offered, typical_mfu
from trainer.presets import preset

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BUDGETS = (ROOT / "docs" / "budgets.md").read_text()
"""With the worked example."""
TYPED = sorted({m[0].strip() for m in re.finditer(r"python -m hpt\.\w+ [^#\n]*--device [^#\n]*", README + BUDGETS)})


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No socket can be opened, no data prepared, and the folder is empty."""

    def refuse(*args: Any, **more: Any) -> Any:
        raise AssertionError("a plan reached for the network or for data")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("hpt.search.prepare", refuse)
    monkeypatch.chdir(tmp_path)


def planned(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert hpt.search.main([*argv, "--dry-run", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("typed", TYPED)
def test_the_worked_example_reaches_its_plan_on_a_laptop(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, module, *argv = shlex.split(typed)
    assert {"hpt.search": hpt.search.main, "hpt.cost": hpt.cost.main}[module](argv) == 0
    said = capsys.readouterr().out
    assert "assumed" in said and "$2.69 an hour" in said
    if module == "hpt.search":
        assert "the target itself would take 2.0 h and $5.38 there" in " ".join(said.split())


def test_the_plan_on_the_page_is_what_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    typed = next(t for t in TYPED if "hpt.search" in t)
    found = planned(capsys, *(a for a in shlex.split(typed)[3:] if a != "--dry-run"))
    for stage in found["plan"]:
        row = next(line for line in BUDGETS.splitlines() if line.startswith(f"  {stage['name']}  "))
        assert row.split("   ")[-2].strip() == f"{stage['cost']['usd']:.2f}", row
    assert found["cost"]["usd"] == pytest.approx(8.0) and len(TYPED) >= 2


def test_the_page_s_examples(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "devices.md").read_text()
    typed = [m[0] for m in re.finditer(r"python -m hpt\.\w+ [^#\n]*--device [^#\n]*", page)]
    for line in typed:
        _, _, module, *argv = shlex.split(line)
        assert {"hpt.search": hpt.search.main, "hpt.cost": hpt.cost.main}[module](argv) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert len(typed) == 2 and "20x N, in whole steps" in said and "RTX 4090, assumed" in said


def test_the_target_is_saved_as_all_flags_have_made_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--target", "gpt2-124m", "--tokens", "20x", "--batch", "262144", "--set", "weight_decay=0.2"]
    more = ["--strategy", "grid", "--budget-runs", "50", "--device", "h100", "--dry-run"]
    assert hpt.search.main([*argv, *more, "--save-target", "mine.toml"]) == 0
    saved = preset("mine.toml")
    assert (saved.batch, saved.weight_decay) == (262144, 0.2) and "mine.toml" in capsys.readouterr().out
    assert hpt.search.main(["--target", "mine.toml", *more]) == 0
    assert f"{saved.steps:,} steps of 262,144" in capsys.readouterr().out


def test_nothing_of_ray_is_loaded() -> None:
    argv = ["--target", "gpt2-124m", "--budget-usd", "20", "--device", "a100", "--dry-run", "--quiet"]
    code = f"import sys; from hpt.search import main; main({argv}); assert 'ray' not in sys.modules"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert told.returncode == 0 and "$" in told.stdout, told.stderr


def test_assumptions_can_be_given_instead(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--target", "gpt2-124m", "--strategy", "grid", "--budget-runs", "30", "--device", "h100"]
    typical, given = planned(capsys, *argv), planned(capsys, *argv, "--mfu", "0.6", "--usd-per-hour", "1")
    assert typical["assumed"]["mfu"] == typical_mfu(124e6) == 0.3 and typical["assumed"]["usd_per_hour"] == 2.69
    assert "RunPod" in typical["assumed"]["priced"] and given["assumed"]["priced"] == "given"
    ratio = typical["target"]["seconds"] / given["target"]["seconds"]
    assert ratio == pytest.approx(2.0, rel=0.01)
    assert given["target"]["usd"] == pytest.approx(given["target"]["seconds"] / 3600)


def test_a_target_too_large_for_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    hpt.search.main(
        ["--target", "gpt2-1.5b", "--strategy", "grid", "--budget-runs", "50", "--device", "t4", "--dry-run"]
    )
    assert "more than one T4" in " ".join(capsys.readouterr().out.split())
    assert hpt.cost.main(["--targets", "gpt2-1.5b", "laptop", "--device", "t4"]) == 0
    assert "too much" in " ".join(capsys.readouterr().out.split())


def test_every_device_has_a_name_of_its_own() -> None:
    names = [device.name for device in DEVICES]
    assert len(set(names)) == len(names)
    assert {"h100", "h200", "b200", "a100", "a10g", "l4", "t4", "rtx4090", "rtx3090", "mi300x"} <= set(names)
    assert all(offered(d.name) is d and (d.usd_per_hour is None) == (not d.priced) for d in DEVICES)
    assert offered("RTX 4090") is offered("rtx-4090") is offered("rtx4090")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--device", "h10"], "did you mean h1"),
        (["--device", "mi300x", "--budget-usd", "5"], "table has none of mi300x"),
        (["--mfu", "0.3"], "name one"),
        (["--device", "h100", "--mfu", "1.5"], "at most 1"),
    ],
)
def test_what_cannot_be_planned_is_told(argv: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        hpt.search.main([*argv, "--dry-run"])
    if "--budget-usd" not in argv:
        with pytest.raises(UserError, match=words):
            hpt.cost.main(argv)


def test_a_device_needs_a_dry_run() -> None:
    with pytest.raises(UserError, match="give --dry-run too"):
        hpt.search.main(["--device", "h100"])
