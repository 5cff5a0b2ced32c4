"""A trial's trainer that is a Python function: `module:function`, or one that is given."""

from __future__ import annotations

import importlib.util
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.execution.external.command import Command
from trainer.errors import UserError
from trainer.files import write_atomic

CALL = Path(__file__).with_name("call.py")
NAMED = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def named(spec: str) -> bool:
    """Whether it is of the form module:function."""
    return NAMED.fullmatch(spec) is not None


def function(spec: str, **settings: Any) -> Command:
    """The trainer that calls `module:function`, found from the folder that trials are run in. UserError where there is
    no such module; that it has the function is found out by the process that calls it."""
    module, folder = spec.partition(":")[0], settings.get("folder", ".")
    top = module.partition(".")[0]
    here = Path(folder)
    if not ((here / f"{top}.py").exists() or (here / top).is_dir() or importlib.util.find_spec(top)):
        raise UserError(f"--trainer {spec}: there is no module {module!r} in {folder}, nor is one installed.")
    return Command(words=_words(spec), environment=True, **settings)


def given(train: Callable[..., Any], place: Path, **settings: Any) -> Command:
    """The trainer that calls `train`, which is pickled by value into `place`, so that it may live in a notebook; what
    it imports is found where this process finds it."""
    import cloudpickle

    path, module = place.absolute() / "function.pickle", sys.modules.get(getattr(train, "__module__", None) or "")
    own = module is not None and module.__name__ != "__main__" and "site-packages" not in str(module.__file__)
    try:
        if own:
            cloudpickle.register_pickle_by_value(module)
        content = pickle.dumps(sys.path) + cloudpickle.dumps(train)
    except Exception as error:  # whatever it holds that cannot be pickled: an open file, a lock, a tensor on a device
        raise UserError(f"train cannot be sent to another process ({type(error).__name__}: {error}).") from None
    finally:
        if own:
            cloudpickle.unregister_pickle_by_value(module)
    write_atomic(path, content)
    return Command(words=_words(str(path)), environment=True, **settings)


def _words(spec: str) -> tuple[str, ...]:
    return (sys.executable, "-P", str(CALL), spec)
