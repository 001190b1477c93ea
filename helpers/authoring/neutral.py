"""Names and places of this machine in what a notebook shows: found, and made neutral."""

import getpass
import re
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from helpers.authoring import ROOT

# Names that tell nothing about a machine and are words of ours: replacing them would spoil text.
WORDS = {"admin", "celery", "debian", "docker", "host", "jovyan", "jupyter", "localhost", "python"}
WORDS |= {"queue", "redis", "root", "runner", "task", "test", "ubuntu", "user", "worker"}
BASE64 = re.compile(r"(data:[\w/+.-]+;base64,(?:[A-Za-z0-9+/]{76}\n)*[A-Za-z0-9+/=]+)")
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:tmp/|(?:home|root|Users)(?![\w-]))")


def neutraliser() -> Callable[[str], str]:
    """A function that makes a text neutral: places and names of this machine become words."""
    places = {
        str(form): word
        for place, word in (
            (Path(tempfile.gettempdir()), "/tmp"),
            (Path.home(), "~"),
            (Path(sys.prefix), ".venv"),
            (ROOT, "."),
        )
        for form in (place, place.resolve())
        if len(str(form)) > 2
    }
    # The longest first: the repository may lie in the home directory.
    patterns = [
        (re.compile(rf"(?<![\w.]){re.escape(place)}(?![\w.-])"), word)
        for place, word in sorted(places.items(), key=lambda item: -len(item[0]))
    ]
    patterns += machine_names()

    def neutral(text: str) -> str:
        parts = BASE64.split(text)
        for index in range(0, len(parts), 2):  # the odd ones are pictures inside HTML
            for pattern, word in patterns:
                parts[index] = pattern.sub(word, parts[index])
        return "".join(parts)

    return neutral


def machine_names() -> list[tuple[re.Pattern[str], str]]:
    """What finds a name of this machine, and the word for it."""
    full = socket.gethostname()
    # "host" is what we write, and "localhost" names nothing.
    hosts = sorted({full, full.split(".")[0]} - {"", "host", "localhost"}, key=len, reverse=True)
    try:
        users = [getpass.getuser()]
    except (KeyError, OSError):  # a container may run under an id without a name
        users = []
    # Celery's node names give away any host, even one whose name is an ordinary word. A host may be
    # followed by more (HOST-1); a user name is often a piece of a hyphenated word.
    found = [(rf"(?<=@){re.escape(name)}(?!\w|[.-]\w)", "host") for name in hosts]
    found += [(rf"(?<!\w){re.escape(name)}(?!\w)", "host") for name in hosts if _telling(name)]
    found += [
        (rf"(?<![\w-]){re.escape(name)}(?![\w-])", "user") for name in users if _telling(name)
    ]
    return [
        (re.compile(pattern, re.IGNORECASE if word == "host" else 0), word)
        for pattern, word in found
    ]


def _telling(name: str) -> bool:
    return len(name) > 2 and name.lower() not in WORDS


def is_text(mime: str) -> bool:
    """Whether such content can be read, and so can give a name away."""
    return not mime.startswith(("image/", "audio/", "video/")) or mime == "image/svg+xml"


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same lists and dictionaries, with each text in them changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


def texts_of(output: NotebookNode) -> list[str]:
    """What an output says, in each form that is text."""
    texts: list[str] = []

    def noted(text: str) -> str:
        texts.append(text)
        return text

    shown = {mime: text for mime, text in output.get("data", {}).items() if is_text(mime)}
    mapped([output.get("text"), output.get("traceback"), shown], noted)
    return texts


def plain(text: str) -> str:
    """Without a terminal's colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)
