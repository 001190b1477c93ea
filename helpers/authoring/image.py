"""What repo2docker makes of this repository: the instructions of the Dockerfile, without Docker."""

import os
import re
import subprocess
import sys

from helpers.authoring import ROOT

UID = 1000
COPY = ("COPY", f"--chown={UID}:{UID} src/ ${{REPO_DIR}}/")  # the repository gets into the image
COMMAND = ["-m", "repo2docker", "--no-build", "--debug", "--user-name=jovyan", f"--user-id={UID}"]


def runtime() -> str:
    """The Python that Binder takes, such as "python3.12"."""
    return (ROOT / "binder" / "runtime.txt").read_text().strip().replace("-", "")


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, in order; a line that goes on is joined.

    Raises subprocess.CalledProcessError when repo2docker refuses the repository.
    """
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *COMMAND, str(ROOT)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text = re.sub(r"^\s*#.*\n", "", done.stdout, flags=re.MULTILINE).replace("\\\n", " ")
    lines = re.findall(r"^([A-Z]+) +(.+)$", text, flags=re.MULTILINE)
    return [(verb, " ".join(rest.split())) for verb, rest in lines]
