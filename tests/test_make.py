"""How .venv is made, with stand-ins for python and uv: no network, nothing installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("sh", "cat", "cksum", "cp", "head", "mkdir", "rm", "tail")
# Both write down how they were called, and make an environment of one file.
PYTHON = """#!/bin/sh
echo "${0##*/} $*" >>"$LOG"
case "$1 $2" in
"-c "*) echo "$0" ;;
"-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip") [ ! -e "$LOG.broken" ] ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >>"$LOG"
[ "$1" != venv ] || { mkdir -p .venv/bin && cp "$0" .venv/bin/python; }
"""


class Place:
    """A copy of what the environment depends on, in a folder with a space, and its own PATH."""

    def __init__(self, tmp_path: Path) -> None:
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            self.bin.joinpath(tool).symlink_to(str(shutil.which(tool)))
        self.root = tmp_path / "my tasks"
        self.root.mkdir()
        for name in ("pyproject.toml", "requirements.txt", "requirements-dev.txt"):
            shutil.copy(ROOT / name, self.root)
        shutil.copytree(ROOT / "binder", self.root / "binder")
        self.log = tmp_path / "log"

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def python_without(self, name: str, spoiled: str) -> None:
        """A real Python, spoiled by a line that runs when it starts."""
        spoil = self.bin / f"{name}-spoiled"
        spoil.mkdir()
        (spoil / "sitecustomize.py").write_text(f"import sys\n{spoiled}\n")
        self.program(name, f'#!/bin/sh\nPYTHONPATH="{spoil}" exec "{sys.executable}" "$@"\n')

    def make(self, what: str = "lab", **env: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return subprocess.run(
            ["sh", str(ROOT / "helpers" / "make_env.sh"), what],
            cwd=self.root,
            env={"PATH": str(self.bin), "LOG": str(self.log), **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def calls(self, what: str = "lab", **env: str) -> list[str]:
        """What a run that must succeed called."""
        done = self.make(what, **env)
        assert done.returncode == 0, done.stderr
        calls = self.log.read_text().splitlines()
        return [call for call in calls if call.startswith("uv ") or " -m " in call]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def installs(calls: list[str]) -> list[str]:
    return [call.split()[-1] for call in calls if "pip install" in call]


def test_plain_lane_then_nothing_to_do(place: Place) -> None:
    place.program("python3", PYTHON)
    calls = place.calls()
    assert "python3 -m venv .venv" in calls
    assert installs(calls) == ["requirements.txt"]
    assert place.calls() == []


def test_uv_lane_then_nothing_to_do(place: Place) -> None:
    place.program("python3", PYTHON)
    place.program("uv", UV)
    calls = place.calls()
    assert [call.split()[:2] for call in calls] == [["uv", "venv"], ["uv", "pip"]]
    assert "--python >=3.11,<3.15" in calls[0]
    assert place.calls() == []


def test_tests_need_more_and_then_the_lab_needs_nothing(place: Place) -> None:
    place.program("python3", PYTHON)
    place.calls("lab")
    calls = place.calls("dev")
    assert installs(calls) == ["requirements-dev.txt"]
    assert "python3 -m venv .venv" not in calls
    assert place.calls("lab") == []
    assert place.calls("dev") == []


def test_only_a_changed_file_installs_again(place: Place) -> None:
    place.program("python3", PYTHON)
    place.calls()
    (place.root / "requirements.txt").touch()
    assert place.calls() == []
    with (place.root / "requirements.txt").open("a") as file:
        file.write("# one more\n")
    assert installs(place.calls()) == ["requirements.txt"]
    assert place.calls() == []


def test_what_jupyterlab_is_told_reaches_an_environment_that_was_there(place: Place) -> None:
    place.program("python3", PYTHON)
    place.calls()
    told = place.root / ".venv" / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    assert told.read_text() == (ROOT / "binder" / "overrides.json").read_text()
    (place.root / "binder" / "overrides.json").write_text("{}")
    place.calls()
    assert told.read_text() == "{}"


def test_interrupted_run_starts_afresh(place: Place) -> None:
    place.program("python3", PYTHON)
    broken = Path(f"{place.log}.broken")
    broken.touch()
    assert place.make().returncode != 0
    left = place.root / ".venv" / "left-over"
    left.touch()
    broken.unlink()
    assert "python3 -m venv .venv" in place.calls()
    assert not left.exists()


def test_failed_update_keeps_the_environment(place: Place) -> None:
    place.program("python3", PYTHON)
    place.calls()
    (place.root / "requirements.txt").write_text("celery\n")
    Path(f"{place.log}.broken").touch()
    assert place.make().returncode != 0
    assert (place.root / ".venv" / "bin" / "python").exists()


def test_environment_that_was_moved_is_made_again(place: Place) -> None:
    place.program("python3", PYTHON)
    place.calls()
    place.root = place.root.rename(place.root.with_name("elsewhere"))
    assert "python3 -m venv .venv" in place.calls()


def test_environment_whose_python_is_gone_is_made_again(place: Place) -> None:
    place.program("python3", PYTHON)
    place.calls()
    python = place.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("gone")
    assert "python3 -m venv .venv" in place.calls()


def test_another_python_on_request(place: Place) -> None:
    place.program("python3", PYTHON)
    place.program("python3.12", PYTHON)
    place.program("python9", PYTHON)
    assert "python3.12 -m venv .venv" in place.calls()
    assert "python9 -m venv .venv" in place.calls(PYTHON="python9")
    assert place.calls(PYTHON="python9") == []
    assert place.calls() == []


def test_first_usable_python_is_taken(place: Place) -> None:
    place.program("python3.13", "#!/bin/sh\necho 'pyenv: no such command' >&2\nexit 127\n")
    place.python_without("python3.12", "sys.modules['ensurepip'] = None")
    place.program("python3", PYTHON)
    assert "python3 -m venv .venv" in place.calls()


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ("sys.version_info = (3, 9, 2, 'final', 0)", "Python 3.9 is too old"),
        ("sys.modules['ensurepip'] = None", "ensurepip is missing"),
        ("sys.exit(3)", "python3: does not run"),
    ],
)
def test_python_that_will_not_do(spoiled: str, said: str, place: Place) -> None:
    place.python_without("python3", spoiled)
    (place.root / ".venv").mkdir()
    done = place.make()
    assert done.returncode == 1
    assert said in done.stderr
    assert "sudo apt install python3-venv make git" in done.stderr
    assert "brew install python" in done.stderr
    assert "astral.sh/uv" in done.stderr


def test_no_python_at_all(place: Place) -> None:
    done = place.make(PYTHON="python3.99")
    assert done.returncode == 1
    assert "python3.99 not found" in done.stderr


TARGETS = "lab test notebooks labs test-labs test-draws grids settings test-next bench binder site"


@pytest.mark.parametrize("target", TARGETS.split())
def test_make_knows_the_target(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=plain, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "helpers/make_env.sh" in done.stdout
