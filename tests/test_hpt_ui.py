"""MLflow's pages: started, answered, ended; bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from matplotlib import image

from hpt import ui
from hpt.tracking.mirror import Mirror
from hpt.tracking.server import connect
from hpt.tracking.told import SearchRun
from search.records import Trial
from trainer.errors import UserError
from trainer.presets import preset

RUN = replace(preset("laptop"), lr=1e-3)


def mirrored(uri: str, name: str) -> None:
    """A search of two sizes, one trial of it diverged, as MLflow has it."""
    run = SearchRun(id="s1", name=name, uri=uri, tags={}, params={})
    mirror, trials = Mirror(run, pytest.fail), list[Trial]()
    for k, lr in enumerate((1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)):
        for size in (RUN, RUN.shaped(1, 32, 1)):
            loss = None if lr > 1e-2 else 4 + 0.1 * (k - 2) ** 2 + (size is not RUN)
            trials.append(
                Trial(id=f"{k}-{size.model.width}", run=replace(size, lr=lr), horizon=RUN.tokens, loss=loss,
                      seconds=60.0, status="finished" if loss else "diverged",
                      train_curve=((10**6, 6.0), (RUN.tokens, 4.5)))
            )  # fmt: skip
    mirror.trials(
        [Trial(id="calibration", run=replace(RUN, lr=1e-6), horizon=1, status="pruned", seconds=3.0), *trials]
    )
    assert mirror.close({"lr": 4e-3}, "# lr 0.004", [])


def test_what_mlflow_is_told(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mirrored(uri, "mine")
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None and "U-curve" in experiment.tags["mlflow.note.content"]
    shown = json.loads(experiment.tags["mlflow.sharedViewState.hpt"])
    assert len(experiment.tags["mlflow.sharedViewState.hpt"]) < 5000  # MLflow's limit of a tag
    runs = client.search_runs([experiment.experiment_id])
    metrics = {name for run in runs for name in run.data.metrics}
    named = {c["xaxis"]["key"] for c in shown["compareRunCharts"] if "xaxis" in c}
    named |= {c["selectedXAxisMetricKey"] for c in shown["compareRunCharts"] if c["type"] == "LINE"}
    (beside,) = (c["selectedMetrics"] for c in shown["compareRunCharts"] if c["type"] == "PARALLEL")
    assert beside == ["log10_lr", "log10_N", "final_val_loss"], "all have the same tokens and batch: no axes of these"
    named |= {m for c in shown["compareRunCharts"] for m in c.get("selectedMetrics", ())}
    assert named <= metrics and shown["orderByKey"] == "metrics.`final_val_loss`"
    keys = {f"metrics.`{key}`" for run in runs for key in run.data.metrics}
    keys |= {f"params.`{key}`" for run in runs for key in run.data.params}
    keys |= {f"tags.`{key}`" for run in runs for key in run.data.tags}
    assert set(shown["selectedColumns"]) - {"tags.`hpt.stage`"} <= keys
    trials = [run for run in runs if run.data.tags.get("hpt.trial", "calibration") != "calibration"]
    assert all(run.info.end_time - run.info.start_time == 60_000 for run in trials)  # the trial's time
    sizes: dict[str, set[str]] = {}
    for run in trials:
        sizes.setdefault(run.data.params["N_total"], set()).add(run.data.tags["mlflow.runColor"])
    one, other = sizes.values()
    assert len(one) == len(other) == 1 and one != other, "a colour a size"
    calibration = next(run for run in runs if run.data.tags.get("hpt.trial") == "calibration")
    assert "log10_lr" not in calibration.data.metrics and "timing" in str(calibration.info.run_name)


@pytest.mark.slow
def test_it_serves_the_page_of_a_search(tmp_path: Path) -> None:
    """With the view that the search left: in a browser the charts are drawn, where there is one."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mirrored(uri, "mine")
    client, experiment = connect(uri, "mine")
    client.delete_experiment_tag(experiment, "mlflow.sharedViewState.hpt")  # as a search of long ago
    command = [sys.executable, "-m", "hpt.ui", "searches/mine", "--port", "0", "--tracking-uri", uri]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = {}
    for line in iter(process.stdout.readline, "Ctrl-C ends it\n"):
        name, address = line.split()
        found[name] = address
    assert list(found) == ["table", "charts"] and all("workflowType=machine_learning" in a for a in found.values())
    with urllib.request.urlopen(found["table"], timeout=20) as page:
        assert b"MLflow" in page.read()
    foreign = urllib.request.Request(found["table"], headers={"Host": "elsewhere.example"})  # DNS rebinding
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(foreign, timeout=20)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is not None:
        pictures = [shot(browser, address, tmp_path / f"{name}.png") for name, address in found.items()]
        assert all(len(np.unique(p[..., :3].reshape(-1, 3), axis=0)) > 100 for p in pictures)
        dots = pictures[1][:, 350:1000, :3]  # where the charts are; a blank page is grey
        assert ((dots.max(axis=2) - dots.min(axis=2)) > 0.3).sum() > 500
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0
    process.stdout.close()


def shot(browser: str, address: str, path: Path) -> np.ndarray:
    """The page's pixels [height, width, 3 or 4], once it has come to rest."""
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", f"--user-data-dir={path}.d"]
    more = ["--virtual-time-budget=60000", "--run-all-compositor-stages-before-draw", f"--screenshot={path}"]
    subprocess.run([browser, *flags, *more, address], capture_output=True, timeout=120, check=False)
    return image.imread(path)


def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="make a search first"):
        ui.main([])
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    connect(uri, "mine")
    with pytest.raises(UserError, match="has nothing called other"):
        ui.main(["searches/other", "--port", "0"])
    assert ui.main(["--tracking-uri", "http://127.0.0.1:9"]) == 0
