"""hpt finds the peak learning rate of a pretraining run you can afford only once.

    import hpt
    answer = hpt.find_lr(train, target="gpt2-124m", tokens=2.5e9, budget_hours=4)

A command is a file here (`console/commands.py` lists them); what they share is in `console`, `tracking` and `reports`.
"""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

HOME = str(Path(__file__).resolve().parents[1])


def _own_names() -> None:
    """See that `search`, `scaling` and `trainer` mean hpt's, whatever modules of these names lie where it is started.

    Ray's workers are seen to in trainer.local_ray.
    """
    for name in ("scaling", "search", "trainer"):
        found = find_spec(name)
        if found is not None and found.origin and str(Path(found.origin).resolve()).startswith(HOME):
            continue
        if HOME not in sys.path[:1]:
            sys.path.insert(0, HOME)
        for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            del sys.modules[loaded]  # whoever imported the other one keeps it


_own_names()

_OFFERED = {
    "find_lr": "hpt.api",
    "load": "hpt.api",
    "truth": "hpt.api",
    "regrets": "hpt.api",
    "Judged": "hpt.reports.judged",
    "Search": "hpt.api",
    "Recommendation": "hpt.api",
    "presets": "hpt.api",
    "Strategy": "search.strategy",
    "UserError": "trainer.errors",
}
"""What `import hpt` offers, and where it is: imported when it is first used, for a command needs none. For types see
__init__.pyi."""


def __getattr__(name: str) -> Any:
    if name not in _OFFERED:
        raise AttributeError(f"module 'hpt' has no attribute {name!r}")
    return getattr(importlib.import_module(_OFFERED[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])
