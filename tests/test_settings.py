"""The table of settings is whole: each text has its evidence, each default somebody to ask."""

import subprocess
import sys
from string import Formatter

import pytest

from helpers import Stack
from helpers.authoring import ROOT
from helpers.settings import SETTINGS, Setting, Where, defaults, names_in


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.shown)
def test_a_row_is_whole(setting: Setting) -> None:
    assert setting.prevents and setting.costs and setting.conditions
    texts = setting.prevents + setting.costs + setting.conditions
    counted = {name for _, name, *_ in Formatter().parse(texts) if name}
    assert counted == set(setting.evidence)
    assert setting.pages and all((ROOT / f"notebooks/{p}.ipynb").exists() for p in setting.pages)
    assert all((ROOT / f"notebooks/grids/{r.grid}.py").exists() for r in setting.evidence.values())


def test_no_setting_stands_twice() -> None:
    names = [name for where in Where for name in names_in(where)]
    assert sorted(names) == sorted(set(names))


def test_each_default_is_asked_for(stack: Stack) -> None:
    found = defaults(stack.redis)
    assert set(found) == {name for setting in SETTINGS for name in setting.asked}
    assert found["task_acks_late"] == "False" and found["visibility_timeout"] == "3600"
    # Of what the private server sets itself, it could not say the default.
    assert not set(stack.redis.config) & set(names_in(Where.SERVER))


def test_reading_the_table_needs_no_celery() -> None:
    code = "import sys, helpers.settings; print({'celery', 'kombu', 'redis'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "set()\n", run.stderr
