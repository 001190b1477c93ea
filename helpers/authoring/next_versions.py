"""Would the course still hold with tomorrow's versions? Runs each notebook in fresh environments.

`make test-next` compares the versions in .venv with the newest that requirements.txt allows, and
with the newest released celery, kombu and redis, whatever it allows. Prints a Markdown table.
`make test-next NEXT="kombu~=5.6.0"` compares with these requirements only.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path

from helpers.authoring import ROOT
from helpers.known_faults import EXITS_ON_RESTART

NEXT = ROOT / ".next"  # a copy of the repository for each environment
STUDIED = ("celery", "kombu", "redis")
RUN = """
import sys
from pathlib import Path
from helpers.authoring.notebooks import NotebookFailed, execute
try:
    execute(Path(sys.argv[1]))
    print("passed")
except NotebookFailed as error:
    print("failed in", error.brief)
"""
VERSIONS = """
from importlib.metadata import distributions
for one in distributions():
    print(one.name.lower(), one.version)
"""


def released(text: str) -> str:
    """The text of requirements.txt without the upper bounds of celery, kombu and redis."""
    names = "|".join(STUDIED)
    return re.sub(rf"^((?:{names})(?:\[\w+\])?>=[\d.]+),<[\d.]+$", r"\1", text, flags=re.MULTILINE)


def given(text: str, requirement: str) -> str:
    """The text of requirements.txt with other bounds of one package, such as "kombu~=5.6.0".

    Raises ValueError for a package that is not there.
    """
    name = re.sub(r"[^\w-].*", "", requirement)
    bounds = requirement.removeprefix(name)
    text, found = re.subn(
        rf"^({name}(?:\[\w+\])?)[<>=~].*", rf"\1{bounds}", text, flags=re.MULTILINE
    )
    if not found:
        raise ValueError(f"requirements.txt does not ask for {name}")
    return text


def environment(name: str, requirements: str) -> Path:
    """A copy of the repository with these requirements and a new .venv for them.

    Ends the program, with what the installer said, when there is no such environment.
    """
    place = NEXT / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info"))
    (place / "requirements.txt").write_text(requirements, encoding="utf-8")
    command = ["sh", "helpers/make_env.sh", "lab"]
    done = subprocess.run(
        command,
        cwd=place,
        env=_clean(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit("\n".join([f"{name}: cannot be installed", *done.stdout.splitlines()[-12:]]))
    return place


def versions(place: Path) -> dict[str, str]:
    """Each package in the environment of `place`, with its version."""
    lines = _python(place, VERSIONS).stdout.splitlines()
    return dict(line.split() for line in lines)


def verdict(place: Path, notebook: str) -> str:
    """Run one notebook in `place`: "passed", or in which cell it failed and how. Writes nothing."""
    done = _python(place, RUN, notebook)
    return done.stdout.strip() or f"did not run: {done.stderr.strip().splitlines()[-1]}"


def _python(place: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(place / ".venv" / "bin" / "python"), "-c", code, *arguments]
    return subprocess.run(command, cwd=place, env=_clean(), capture_output=True, text=True)


def _clean() -> dict[str, str]:
    # make's own variables would reach the make of a notebook; PYTHONPATH the wrong helpers.
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("MAKE")}


def table(verdicts: dict[str, dict[str, str]]) -> str:
    """Notebooks (rows) by environment (columns), in Markdown. Bold: not as in the first."""
    first, *others = verdicts
    lines = [["notebook", *verdicts], ["---"] * (len(verdicts) + 1)]
    for notebook, now in verdicts[first].items():
        ends = [verdicts[name][notebook] for name in others]
        lines.append([notebook, now, *(e if _same(e, now) else f"**{e}**" for e in ends)])
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _same(one: str, other: str) -> bool:
    return (one == "passed") == (other == "passed")


def main(requirements: list[str]) -> int:
    """Print the table. 0 if every notebook passed in every environment, else 1."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    wanted = {"newest allowed": text, "newest released": released(text)}
    if requirements:
        wanted = {"given": reduce(given, requirements, text)}
    places = {"installed": ROOT}
    places |= {name: environment(name, asked) for name, asked in wanted.items()}
    notebooks = sorted(f"notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb"))
    verdicts: dict[str, dict[str, str]] = {}
    packages: dict[str, dict[str, str]] = {}
    for name, place in places.items():
        packages[name] = versions(place)
        said = " · ".join(f"{package} {packages[name].get(package)}" for package in STUDIED)
        twin = next((other for other in verdicts if packages[other] == packages[name]), None)
        if twin:
            print(f"- {name}: {said}; the same packages as {twin}, so not run again", flush=True)
            verdicts[name] = verdicts[twin]
            continue
        began = time.monotonic()
        verdicts[name] = {notebook: verdict(place, notebook) for notebook in notebooks}
        print(f"- {name}: {said}; {time.monotonic() - began:.0f} s", flush=True)
        if (celery := packages[name].get("celery", "")) not in EXITS_ON_RESTART:
            print(f"  helpers/known_faults.py has no line for Celery {celery} yet", flush=True)
    print("", table(verdicts), sep="\n")
    return 0 if {end for ends in verdicts.values() for end in ends.values()} == {"passed"} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
