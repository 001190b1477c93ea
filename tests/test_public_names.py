"""What the package offers: each name is there, is loaded on first use, and has its type."""

import ast
import inspect
import subprocess
import sys

import pytest

import helpers


@pytest.mark.parametrize("name", helpers.__all__)
def test_each_name_is_there(name: str) -> None:
    assert getattr(helpers, name).__name__.removeprefix("helpers.") == name


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'stak'"):
        helpers.stak  # noqa: B018
    with pytest.raises(ImportError):
        from helpers import stak  # noqa: F401


def test_type_checkers_know_the_same_names() -> None:
    typed = [
        name.name
        for block in ast.parse(inspect.getsource(helpers)).body
        if isinstance(block, ast.If)
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for name in line.names
    ]
    assert sorted(typed) == sorted(helpers.__all__)


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = "import helpers, sys; print(*(m for m in sys.modules if m.startswith('helpers')))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["helpers"]
