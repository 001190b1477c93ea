"""Break Celery on Redis on purpose, and count what was lost, repeated or stuck."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers import chords, lens, plots, wire
    from helpers.fates import Outcome
    from helpers.prediction import predict
    from helpers.reaper import private_directory
    from helpers.stack import Stack
    from helpers.tables import effects
    from helpers.trials import interval, stored, tally

_PLACES = {
    "Outcome": "fates",
    "Stack": "stack",
    "effects": "tables",
    "interval": "trials",
    "predict": "prediction",
    "private_directory": "reaper",
    "stored": "trials",
    "tally": "trials",
}
__all__ = ["Outcome", "Stack", "chords", "effects", "interval", "lens", "plots", "predict"]
__all__ += ["private_directory", "stored", "tally", "wire"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `python -m helpers.doctor` must run where nothing is installed yet.
    if name in ("chords", "lens", "plots", "wire"):
        return importlib.import_module(f"helpers.{name}")
    if name in _PLACES:
        return getattr(importlib.import_module(f"helpers.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")
