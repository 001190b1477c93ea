"""What repo2docker, and so Binder, makes of the folder `binder`. Nothing is built."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.authoring import image

Steps = list[tuple[str, str]]


@pytest.fixture(scope="module")
def steps() -> Steps:
    if find_spec("repo2docker") is None:
        pytest.skip("not run: repo2docker is not installed")
    return image.instructions()


def test_the_python_that_is_named(steps: Steps) -> None:
    named = image.runtime().removeprefix("python")
    # The lock file of that Python; repo2docker writes punctuation of a path in hexadecimal.
    lock = f"environment.py-{named}-linux".replace("-", "-2d").replace(".", "-2e")
    assert any(lock in rest for verb, rest in steps if verb == "COPY")


def test_our_requirements_once_the_repository_is_there(steps: Steps) -> None:
    copied = steps.index(image.COPY)
    installs = [n for n, (_, rest) in enumerate(steps) if "pip install" in rest]
    assert [n > copied for n in installs] == [True]
    # `-e .` in requirements.txt goes by the current folder: it has to be the repository's.
    assert '-r "binder/requirements.txt"' in steps[installs[0]][1]
    assert [rest for verb, rest in steps if verb == "WORKDIR"] == ["${REPO_DIR}"]


def test_post_build_after_that_and_as_the_user(steps: Steps) -> None:
    ran = steps.index(("RUN", "./binder/postBuild"))
    assert ran > next(n for n, (_, rest) in enumerate(steps) if "pip install" in rest)
    assert [rest for verb, rest in steps[:ran] if verb == "USER"][-1] == "${NB_USER}"
    assert [rest for verb, rest in steps if verb == "USER"][-1] == "${NB_USER}"


def test_the_user_owns_the_repository(steps: Steps) -> None:
    assert image.COPY == ("COPY", "--chown=1000:1000 src/ ${REPO_DIR}/")
    assert image.COPY in steps


def test_start_is_the_entry(steps: Steps) -> None:
    assert ("ENV", 'R2D_ENTRYPOINT="${REPO_DIR}/binder/start"') in steps


def test_start_becomes_the_command() -> None:
    start = image.ROOT / "binder" / "start"
    said = subprocess.check_output([start, "printf", "%s|", "two words", "$HOME"], text=True)
    assert said == "two words|$HOME|"


def test_versions_stand_in_one_place() -> None:
    lines = (image.ROOT / "binder" / "requirements.txt").read_text().split("\n")
    assert lines == ["-r ../requirements.txt", ""]


def test_post_build_turns_the_news_off_and_checks_the_machine(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    environment = {**os.environ, "NB_PYTHON_PREFIX": str(tmp_path)}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        ["./binder/postBuild"], cwd=image.ROOT, env=environment, capture_output=True, text=True
    )
    # A machine that the preflight finds fault with has to fail the build.
    assert done.returncode == (1 if "✗" in done.stdout else 0), done.stderr
    assert "Redis server" in done.stdout
    overrides = tmp_path / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    news = json.loads(overrides.read_text())["@jupyterlab/apputils-extension:notification"]
    assert news == {"fetchNews": "false", "checkForUpdates": False}
