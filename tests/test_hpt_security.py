"""What comes from files is shown as it stands, secrets of addresses are not shown, Ray listens on loopback alone."""

from __future__ import annotations

import html.parser
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hpt import report
from hpt.tracking.background import Background
from hpt.tracking.server import ailment, ui_command
from search.budget import Timing, shape_key
from search.execution.store import SearchDir
from search.records import Recommendation, Trial
from trainer.addresses import masked, scrubbed
from trainer.config import to_dict
from trainer.errors import UserError
from trainer.presets import preset
from trainer.storage import Store

ROOT = Path(__file__).parents[1]
HOSTILE = r"""'"onmouseover=alert(1) x="<script>alert(2)</script><img src=x onerror=alert(3)>\input{/etc/passwd}"""
HOSTILE += "\n| [a](javascript:alert(4)) | `b` ]]> & $x^2$ ~ % # _ {} --> </style></title>"
NAME = HOSTILE.replace("/", "∕").replace("\n", " ")  # of a folder
TARGET = preset("laptop")


class Elements(html.parser.HTMLParser):
    """Tags and attributes as a browser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def harmless(page: str) -> None:
    found = Elements(page).found
    assert [tag for tag, _ in found].count("script") == 1, "the page's own"
    assert not [a for _, attributes in found for a in attributes if a.startswith("on")]
    assert {tag for tag, _ in found} <= set(
        "html head meta title style body main h1 h2 p b ul li figure svg rect line text g clippath polyline circle "
        "path details summary figcaption div span i table thead tbody tr th td pre code script button output".split()
    )
    known = {"data-v", "class", "style", "id", "role", "aria-label", "lang", "charset", "name", "content"}
    wrong = [
        a for tag, attributes in found for a in attributes if a not in known and tag in ("td", "th", "p", "li", "b")
    ]
    assert not wrong


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A search whose every text is an attack."""
    directory = SearchDir(tmp_path / NAME[:200])
    target = replace(TARGET, data=replace(TARGET.data, corpus=HOSTILE, tokenizer=HOSTILE, text_field=HOSTILE))
    timings = {shape_key(TARGET): to_dict(Timing(step_seconds=0.1))}
    plan = [{"name": HOSTILE, "trials": 3, "tokens": 10, "cost": {"seconds": 1.0, "flops": 1.0, "usd": 0.0}}]
    search = {"strategy": HOSTILE, "target": HOSTILE, "corpus": HOSTILE}
    directory.write_config(
        {"id": HOSTILE, "search": search, "target": to_dict(target), "timings": timings, "plan": plan}
    )
    for i, lr in enumerate((1e-3, 2e-3, 4e-3, 8e-3)):
        directory.append(
            Trial(
                id=f"{i}{HOSTILE}", parent=f"{i - 1}{HOSTILE}" if i else None, run=replace(target, lr=lr),
                horizon=TARGET.tokens, status="finished", loss=4 + 0.1 * (i - 1) ** 2, seconds=3.0, usd=0.01,
                error=HOSTILE, device=HOSTILE, curve=((10, 4.0),), train_curve=((1, 5.0), (2, 4.0), (3, 3.0), (4, 3.0)),
                tags={"stage": HOSTILE, "bracket": HOSTILE, HOSTILE: HOSTILE},
            )
        )  # fmt: skip
    answer = Recommendation(
        lr=2e-3, interval90=(1e-3, 4e-3), law=HOSTILE, rejected=((HOSTILE, HOSTILE),), reasons=(HOSTILE,),
        settings={HOSTILE: HOSTILE}, trials=(HOSTILE,),
    )  # fmt: skip
    directory.write_recommendation(answer, {})
    return directory.path


def test_a_search_cannot_speak_in_its_report(hostile: Path) -> None:
    for form in ("html", "md", "latex"):
        assert report.main([str(hostile), "--format", form]) == 0
    harmless((hostile / "report.html").read_text())
    for picture in hostile.glob("*.svg"):
        assert not [e for e in ElementTree.parse(picture).iter() if e.tag.endswith("script") or "onload" in e.attrib]
    markdown = (hostile / "report.md").read_text()
    assert not re.search(r"<\w", markdown) and not re.search(r"(?<!\\)\[a\]?(?<!\\)\]\(", markdown)
    for table in re.findall(r"(?:^\|.*\|\n)+", markdown, re.M):  # no row has columns of its own
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
    latex = (hostile / "report.tex").read_text()
    assert "\\input" not in latex and r"\textbackslash{}input\{" in latex


def test_nor_can_a_final_run(tmp_path: Path) -> None:
    run = tmp_path / NAME[:200]
    run.mkdir()
    (run / "run.json").write_text(json.dumps(to_dict(replace(TARGET, lr=1e-3))))
    result = {"status": HOSTILE, "reason": HOSTILE, "loss": 3.0, "bits_per_byte": 1.0, "checkpoint": HOSTILE}
    curves = {
        "curve": [[1, 3.0], [2, 2.0]],
        "train_curve": [[1, 3.0]],
        "scores": [[1, {HOSTILE: 0.5}], [2, {HOSTILE: 0.6}]],
    }
    (run / "result.json").write_text(json.dumps({**result, **curves}))
    score = {"name": HOSTILE, "value": 0.5, "standard_error": None, "count": 3}
    (run / "evaluations.json").write_text(json.dumps({HOSTILE: {"scores": [score]}}))
    (run / "samples.txt").write_text(HOSTILE)
    assert report.main([str(run)]) == 0
    harmless((run / "report.html").read_text())


ADDRESSES = (
    "postgresql://me:hunter2@host/db",
    "postgresql+psycopg2://me:hunter2@host:5432/db?sslmode=require",
    "https://me:hunter2@host/mlflow",
    "mysql://host/db?user=me&password=hunter2",
    "s3://AKIA:hunter2@bucket/runs?region=eu-west-1",
    "s3://bucket/runs?secret_key=hunter2&region=eu-west-1",
    "abfs://box@account/x?sas_token=hunter2",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_is_not_shown(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "hunter2" not in masked(address) and "host" in masked(address) + "host"
    assert "hunter2" not in scrubbed(f"cannot reach {address}: 'hunter2' is refused", address)
    assert "hunter2" not in ui_command(address)
    said: list[str] = []

    def connect() -> None:
        raise ConnectionError(f"no route to {address}, password hunter2")

    mirror = Background[None]("mlflow", connect, lambda error: said.append(ailment(address, error)))
    mirror.put(lambda writer: None)
    mirror.put(None)
    assert not mirror.ended(20) and "hunter2" not in said[0] and "does not answer" in said[0]


@pytest.mark.parametrize("address", ["nonsense://me:hunter2@bucket/x", "nonsense://bucket/x?secret_key=hunter2"])
def test_nor_is_that_of_a_store(address: str) -> None:
    store = Store(address)
    assert "hunter2" not in store.join("result.json")
    with pytest.raises(UserError) as error:
        store.read("run.json")
    assert "hunter2" not in str(error.value)


def test_what_has_no_secret_is_shown_as_it_is() -> None:
    for address in (
        "sqlite:////home/me/mlflow.db",
        "s3://bucket/runs?region=eu-west-1",
        "http://127.0.0.1:5000",
        "runs/a",
    ):
        assert masked(address) == address


LISTENS = """
import os, subprocess
from trainer.local_ray import ray_session
with ray_session(1, 0):
    lines = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    table = [line.split(None, 2) for line in subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True,
             text=True, check=True).stdout.splitlines()[1:]]
    mine = {str(os.getpid())}
    for _ in range(5):
        mine |= {pid for pid, parent, _ in table if parent in mine}
    import ray
    assert ray.get(ray.remote(num_cpus=1)(lambda: 3).remote()) == 3
    print([line.split()[3] for line in lines if any(f"pid={pid}," in line for pid in mine)])
"""


def test_a_local_ray_listens_on_loopback_alone(tmp_path: Path) -> None:
    if subprocess.run(["which", "ss"], capture_output=True).returncode:
        pytest.skip("there is no ss here")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", LISTENS]
    for _ in range(3):  # on a busy machine Ray may not start in the time that it gives itself
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200)
        if "timed out during startup" not in done.stderr:
            break
    assert done.returncode == 0, done.stderr[-2000:]
    addresses = json.loads(done.stdout.strip().splitlines()[-1].replace("'", '"'))
    assert addresses and not [a for a in addresses if not a.startswith(("127.0.0.1:", "[::1]:", "[::ffff:127.0.0.1]:"))]
    assert not (tmp_path / ".ray").exists()
