"""MLflow's pages: started, answered, ended; bad input."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from hpt import ui
from hpt.tracking import connect
from trainer.errors import UserError


@pytest.mark.slow
def test_it_serves_the_page_of_a_search(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    _, experiment = connect(uri, "mine")
    command = [sys.executable, "-m", "hpt.ui", "searches/mine", "--port", "0", "--tracking-uri", uri]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    address = next(m.group(1) for line in lines if (m := re.search(r"open (http://127\.0\.0\.1:\d+/\S*)", line)))
    assert address.endswith(f"#/experiments/{experiment}/runs")
    with urllib.request.urlopen(address, timeout=20) as page:
        assert b"MLflow" in page.read()
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0
    process.stdout.close()


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make a search first"):
        ui.main([])
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    connect(uri, "mine")
    with pytest.raises(UserError, match="has nothing called other"):
        ui.main(["searches/other", "--port", "0"])
    assert ui.main(["--tracking-uri", "http://127.0.0.1:9"]) == 0
