"""make test-next: requirements are rewritten as asked, notebooks run, a changed verdict shows."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from helpers.authoring import next_versions

TEXT = (next_versions.ROOT / "requirements.txt").read_text(encoding="utf-8")
# Stands for helpers/make_env.sh: the environment is the one of this test.
MAKE_ENV = f"""mkdir -p .venv/bin
echo '#!/bin/sh' >.venv/bin/python
echo 'exec "{sys.executable}" "$@"' >>.venv/bin/python
chmod +x .venv/bin/python
"""
# What a notebook finds out depends on the requirements, as it would on what they install.
STUDY = 'assert "5.6" not in open("../requirements.txt").read()'


def changed(text: str) -> dict[str, str]:
    return {
        before: after
        for before, after in zip(TEXT.splitlines(), text.splitlines(), strict=True)
        if before != after
    }


def test_released_means_no_upper_bound() -> None:
    lines = changed(next_versions.released(TEXT))
    assert sorted(line.split(">")[0] for line in lines) == ["celery[redis]", "kombu", "redis"]
    assert all(before == f"{after},<{before.split('<')[1]}" for before, after in lines.items())


def test_given_requirements_replace_the_bounds() -> None:
    text = next_versions.given(next_versions.given(TEXT, "celery~=5.6.0"), "redis==6.4.0")
    assert list(changed(text).values()) == ["celery[redis]~=5.6.0", "redis==6.4.0"]
    with pytest.raises(ValueError, match="does not ask for flask"):
        next_versions.given(TEXT, "flask<3")


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one notebook, which holds with newer requirements only."""
    root = tmp_path / "the course"
    for folder in ("helpers", "notebooks", ".git"):
        (root / folder).mkdir(parents=True)
    (root / "requirements.txt").write_text(TEXT)
    (root / "helpers" / "make_env.sh").write_text(MAKE_ENV)
    for file in ("__init__.py", "authoring"):
        (root / "helpers" / file).symlink_to(next_versions.ROOT / "helpers" / file)
    cells = [new_markdown_cell("# One"), new_code_cell(STUDY)]
    write(new_notebook(cells=cells), root / "notebooks" / "studies.ipynb")
    monkeypatch.setattr(next_versions, "ROOT", root)
    monkeypatch.setattr(next_versions, "NEXT", root / ".next")
    subprocess.run(["sh", "helpers/make_env.sh"], cwd=root, check=True)
    return root


def test_an_environment_is_a_fresh_copy(course: Path) -> None:
    left = course / ".next" / "one" / "left-over"
    left.mkdir(parents=True)
    place = next_versions.environment("one", "celery\n")
    assert (place / "requirements.txt").read_text() == "celery\n"
    assert (place / "notebooks" / "studies.ipynb").is_file()
    assert not left.exists() and not (place / ".git").exists() and not (place / ".next").exists()
    assert next_versions.versions(place)["celery"] == version("celery")


def test_what_cannot_be_installed_says_why(course: Path) -> None:
    script = course / "helpers" / "make_env.sh"
    script.write_text("echo 'no matching distribution' >&2; exit 1\n")
    with pytest.raises(SystemExit, match="newest released: cannot be installed\nno matching"):
        next_versions.environment("newest released", "celery>=99\n")


def test_a_changed_verdict_shows(
    course: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebooks = {path: path.read_bytes() for path in course.rglob("*.ipynb")}
    monkeypatch.setattr(next_versions, "versions", lambda place: {"kombu": place.name})
    assert next_versions.main(["kombu~=5.6.0"]) == 1
    error = f"failed in cell 2: AssertionError: {STUDY}"
    said = capsys.readouterr().out
    assert "| notebook | installed | given |" in said
    assert f"| notebooks/studies.ipynb | passed | **{error}** |" in said
    assert "helpers/known_faults.py has no line for Celery" in said
    assert {path: path.read_bytes() for path in notebooks} == notebooks


def test_the_same_packages_do_not_run_again(
    course: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert next_versions.main([]) == 0
    said = capsys.readouterr().out
    assert said.count("the same packages as installed, so not run again") == 2
    assert "| notebooks/studies.ipynb | passed | passed | passed |" in said


def test_only_another_end_is_bold() -> None:
    failed = "failed in cell 2: KeyError: a|b"
    verdicts = {
        "installed": {"one": "passed", "two": failed},
        "newest released": {"one": "passed", "two": "failed in cell 3: KeyError: c"},
    }
    assert next_versions.table(verdicts).splitlines()[2:] == [
        "| one | passed | passed |",
        r"| two | failed in cell 2: KeyError: a\|b | failed in cell 3: KeyError: c |",
    ]
