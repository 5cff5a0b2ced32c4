"""hpt finds the peak learning rate of a pretraining run you can afford only once.

A command is a file here (`console/commands.py` lists them); what they share is in `console`, `tracking` and `reports`.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

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
