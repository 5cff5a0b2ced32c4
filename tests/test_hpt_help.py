"""--help: what it imports, and how it is told."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "ray", "mlflow", "optuna", "pandas", "transformers", "scipy.stats")
TELLS = """
import contextlib, importlib, io, sys
from hpt.console.commands import COMMANDS
for name in COMMANDS:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        importlib.import_module(f"hpt.{name}").main(["--help"])
    assert f"hpt.{name}" in told.getvalue(), name  # it did tell
    loaded = [heavy for heavy in sys.argv[1:] if heavy in sys.modules]
    assert not loaded, f"hpt.{name} --help imports {loaded}"
"""


def test_help_imports_nothing_heavy() -> None:
    told = subprocess.run([sys.executable, "-c", TELLS, *HEAVY], text=True, capture_output=True, timeout=120)
    assert told.returncode == 0, told.stderr
