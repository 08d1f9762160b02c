"""Files with gates, rules, strategies, codecs and functions of the user's own, loaded before a process takes its role.

Every process of a run is told its plug-ins by whoever starts it, never over the network.
"""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from shoal.errors import ConfigError

__all__ = ["load_plugins"]


def load_plugins(paths: Iterable[str]) -> None:
    """Run each file once, as a module under its own name.

    Raises:
        ConfigError: a file is not there, is no Python file, or fails; the text has its error.
    """
    for given in paths:
        path = Path(given).resolve()
        name = f"shoal_plugin_{path.stem}"
        known = sys.modules.get(name)
        if known is not None and getattr(known, "__file__", None) == str(path):
            continue
        spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" else None
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"plug-in {given!r}: expected a Python file, such as my_rules.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as e:
            del sys.modules[name]
            raise ConfigError(f"plug-in {given!r} failed: {type(e).__name__}: {e}") from e
