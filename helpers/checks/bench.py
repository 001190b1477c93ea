"""What several experiments need: an answer's file and its functions, and the shop's own table."""

import importlib.util
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from helpers.errors import StackError
from helpers.fates import effects


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """Import the file of an answer, and return its function `name`.

    Raises StackError when it has none, and whatever the file itself raises.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return member(module, name)


def member(module: ModuleType, name: str) -> Any:
    """A task or function of an answer. Raises StackError when the answer has none of that name."""
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise StackError(
            f"{module.__name__}.py has no {name}: keep the names of the page"
        ) from error


def make_tables(here: Path, *definitions: str) -> None:
    """Make the shop's database, such as with "charges (number)"."""
    with closing(sqlite3.connect(here / "shop.db")) as database:
        for definition in definitions:
            database.execute(f"CREATE TABLE {definition}")


def rows(here: Path, table: str, key: str) -> dict[str, int]:
    """How many rows `table` of the shop's database has for each value of the column `key`."""
    return {
        str(value): int(count) for value, count in effects(here / "shop.db", table, key).items()
    }
