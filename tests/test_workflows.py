"""Each GitHub workflow is what GitHub's schema asks for. The schema comes with the checker."""

import subprocess
import sys
from pathlib import Path

import pytest

from helpers.authoring import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CHECK = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *CHECK, str(path)], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_follows_the_schema(path: Path) -> None:
    done = check(path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_mistyped_key_is_found(tmp_path: Path) -> None:
    bad = tmp_path / "pages.yml"
    bad.write_text("on: push\njobs:\n  publish:\n    run-on: ubuntu-latest\n    steps: []\n")
    done = check(bad)
    assert done.returncode == 1 and "runs-on" in done.stdout
