"""Break Celery on Redis on purpose, and count what was lost, repeated or stuck."""
# ruff: noqa: F401

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # editors and type checkers cannot follow a name that is loaded on first use
    from helpers import chords, lens, plots, wire
    from helpers.fates import Outcome
    from helpers.prediction import predict
    from helpers.reaper import private_directory
    from helpers.stack import Stack
    from helpers.tables import effects
    from helpers.trials import interval, stored, tally

# Each public name, and the module that has it. Without one it is a module itself.
_PLACES = {
    "Outcome": "fates",
    "Stack": "stack",
    "chords": "",
    "effects": "tables",
    "interval": "trials",
    "lens": "",
    "plots": "",
    "predict": "prediction",
    "private_directory": "reaper",
    "stored": "trials",
    "tally": "trials",
    "wire": "",
}
__all__ = list(_PLACES)


def __getattr__(name: str) -> Any:
    # Loaded on first use: `python -m helpers.doctor` must run where nothing is installed yet.
    if name not in _PLACES:
        raise AttributeError(f"module 'helpers' has no attribute {name!r}")
    module = importlib.import_module(f"helpers.{_PLACES[name] or name}")
    return getattr(module, name) if _PLACES[name] else module
