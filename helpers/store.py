"""Run notebooks from a fresh kernel and store them with their results, the same on every machine.

`python -m helpers.store notebook.ipynb ...`. A notebook that fails stays as it was.
"""

import argparse
import base64
import copy
import getpass
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from helpers import links

ROOT = Path(__file__).resolve().parent.parent
CELL_SECONDS = 300
MAX_KB = 400
MAX_LINES = 25
# The README shows the first figure of the first notebook.
COVER, PICTURE = "00_start_here", "lost.png"
WIDGET = "application/vnd.jupyter.widget-view+json"
# Names that tell nothing about a machine and are words of ours: replacing them would spoil text.
WORDS = {"admin", "celery", "debian", "docker", "host", "jovyan", "jupyter", "localhost", "python"}
WORDS |= {"queue", "redis", "root", "runner", "task", "test", "ubuntu", "user", "worker"}
BASE64 = re.compile(r"(data:[\w/+.-]+;base64,(?:[A-Za-z0-9+/]{76}\n)*[A-Za-z0-9+/=]+)")
# What a reader has to know before they start: "... Fifteen minutes to read, one minute to run.", or
# for a lab "Allow thirty minutes."
TIME = re.compile(
    r"(minute|second)s?\b.*\bto read\b.*\b(minute|second)s?\b.*\bto run\b|Allow\s+\S+\s+minutes",
    re.DOTALL,
)
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:tmp/|(?:home|root|Users)(?![\w-]))")


class NotebookFailed(RuntimeError):
    """A cell raised, took too long, or took the kernel with it. The text says which and how.

    `brief` says it in one line.
    """

    def __init__(self, text: str, brief: str) -> None:
        super().__init__(text)
        self.brief = brief


def execute(path: Path) -> NotebookNode:
    """The notebook after a run from a fresh kernel, in its own directory. Writes nothing.

    Raises NotebookFailed.
    """
    notebook = nbformat.read(path, as_version=4)
    reached: dict[str, int] = {}
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        extra_arguments=["--log-level=ERROR"],  # a kernel's warnings are no news to an author
        resources={"metadata": {"path": str(path.resolve().parent)}},
        on_cell_start=lambda cell, cell_index: reached.update(cell=cell_index),
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookFailed(*_failure(notebook, reached.get("cell", 0), error)) from error
    return notebook


def _failure(notebook: NotebookNode, index: int, error: Exception) -> tuple[str, str]:
    cell = notebook.cells[index]
    if isinstance(error, CellTimeoutError):
        brief = said = f"no end after {CELL_SECONDS} s"
    elif isinstance(error, DeadKernelError):
        brief = said = "the kernel died"
    else:
        raised = [out for out in cell.get("outputs", []) if out.output_type == "error"]
        said = _plain("\n".join(raised[-1].traceback)) if raised else str(error)
        # A bare `assert` has no message. Then the line that raised says most.
        lines = re.findall(r"^-+> \d+ +(.*)", said, flags=re.MULTILINE)
        message = _plain(error.evalue).strip() or (lines[-1] if lines else "")
        brief = f"{error.ename}: {message}".splitlines()[0]
    source = cell.source.splitlines()
    first = source[0] if source else "(empty)"
    text = "\n".join([f"cell {index + 1}: {first}", *said.splitlines()[-12:]])
    return text, f"cell {index + 1}: {brief}"


def normalise(notebook: NotebookNode) -> NotebookNode:
    """A copy without what differs from run to run or names this machine."""
    notebook = copy.deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.kernelspec = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.language_info = {
        **notebook.metadata.get("language_info", {"name": "python"}),
        "version": "3",
    }
    neutral = _neutraliser()
    for cell in notebook.cells:
        for timing in ("execution", "ExecuteTime"):
            cell.metadata.pop(timing, None)
        if cell.cell_type == "code":
            cell.outputs = [_normal_output(out, neutral) for out in _merged(cell.outputs)]
    return notebook


def _merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    merged: list[NotebookNode] = []
    for output in outputs:
        if WIDGET in output.get("data", {}):
            continue
        last = merged[-1] if merged else None
        if last and output.output_type == "stream" and last.get("name") == output.name:
            last.text += output.text
        else:
            merged.append(output)
    return merged


def _normal_output(output: NotebookNode, neutral: Callable[[str], str]) -> NotebookNode:
    if output.output_type == "stream":
        output.text = neutral(_squeezed(output.text))
    elif output.output_type == "error":
        output.update(_mapped({k: output[k] for k in ("evalue", "traceback")}, neutral))
    else:
        if "image/png" in output.data:
            output.data.pop("text/html", None)
        for mime, content in output.data.items():
            if _is_text(mime):
                output.data[mime] = _mapped(content, neutral)
    return output


def _squeezed(text: str) -> str:
    """What a terminal shows at the end: of a line that was overwritten, the last state."""

    def last(line: str) -> str:
        return next((part for part in reversed(line.split("\r")) if part), "")

    return "\n".join(last(line) for line in text.split("\n"))


def _is_text(mime: str) -> bool:
    return not mime.startswith(("image/", "audio/", "video/")) or mime == "image/svg+xml"


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value


def _neutraliser() -> Callable[[str], str]:
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
    patterns += _machine_names()

    def neutral(text: str) -> str:
        parts = BASE64.split(text)
        for index in range(0, len(parts), 2):  # the odd ones are pictures inside HTML
            for pattern, word in patterns:
                parts[index] = pattern.sub(word, parts[index])
        return "".join(parts)

    return neutral


def _machine_names() -> list[tuple[re.Pattern[str], str]]:
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


def problems(notebook: NotebookNode) -> list[str]:
    """What keeps a stored notebook from being fit to read, one line each. Empty when it is."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    prose = re.sub(r"^(```|~~~).*?^\1", "", "\n\n".join(cells), flags=re.MULTILINE | re.DOTALL)
    found = [*_page_problems(notebook), *_heading_problems(prose), *_prose_problems(prose)]
    executed = 0
    for number, cell in enumerate(notebook.cells, start=1):
        wrong = list(_leaks(cell.source, [(ABSOLUTE, "an absolute path")]))
        if cell.cell_type == "code":
            executed += 1
            wrong += _code_problems(cell, executed)
        found += [f"cell {number}: {text}" for text in wrong]
    return found


def _code_problems(cell: NotebookNode, count: int) -> Iterator[str]:
    if cell.execution_count != count:
        yield f"execution count {cell.execution_count}, expected {count}"
    if (lines := len(cell.source.splitlines())) > MAX_LINES:
        yield f"{lines} lines of code, {MAX_LINES} at most"
    # The machine's names are looked for in results only: prose may use the same words.
    names = [(ABSOLUTE, "an absolute path")]
    names += [(pattern, f"the name of the {word}") for pattern, word in _machine_names()]
    for output in cell.outputs:
        yield from _output_problems(output)
        yield from _leaks("\n".join(_texts(output)), names)


def _leaks(text: str, patterns: list[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    # Without pictures inside HTML, and without the colours of a traceback.
    text = BASE64.sub("", _plain(text))
    for pattern, what in patterns:
        if match := pattern.search(text):
            yield f"{what}: {_line(text, match)}"


def _page_problems(notebook: NotebookNode) -> Iterator[str]:
    if "widgets" in notebook.metadata:
        yield "metadata.widgets is there: sites refuse to show such a notebook"
    size = len(nbformat.writes(notebook).encode()) / 1024
    if size >= MAX_KB:
        yield f"{size:.0f} KB, {MAX_KB} KB at most"


def _heading_problems(prose: str) -> Iterator[str]:
    headings = re.findall(r"^(#{1,6})\s+(.*)", prose, flags=re.MULTILINE)
    top = sum(marks == "#" for marks, _ in headings)
    if top != 1:
        yield f"{top} first-level headings, exactly one is needed"
    level = 0
    for marks, title in headings:
        if len(marks) > level + 1:
            yield f"heading level {level} is followed by {len(marks)}: {title}"
        level = len(marks)


def _prose_problems(prose: str) -> Iterator[str]:
    told = dict(
        re.findall(r"^\*\*What you'll (do|learn|need)\.\*\*\s+(.+(?:\n.+)*)", prose, re.MULTILINE)
    )
    yield from (f"no What you'll {what}" for what in ("do", "learn", "need") if what not in told)
    if "need" in told and not TIME.search(told["need"]):
        yield "What you'll need does not say how long it takes"
    if "![](" in prose:
        yield "a picture in the text without alt text"


def _output_problems(output: NotebookNode) -> Iterator[str]:
    if output.output_type == "error":
        yield f"ends in {output.ename}: {output.evalue}"
    data = output.get("data", {})
    if WIDGET in data:
        yield "stores a widget, which shows nothing without a kernel"
    for mime in data:
        if not mime.startswith("image/"):
            continue
        if "text/html" in data:
            yield f"stores text/html beside {mime}"
        about = output.metadata
        if not (about.get("alt") or about.get(mime, {}).get("alt")):
            yield "a picture without alt text"


def _texts(output: NotebookNode) -> list[str]:
    texts: list[str] = []
    shown = {mime: text for mime, text in output.get("data", {}).items() if _is_text(mime)}
    _mapped([output.get("text"), output.get("traceback"), shown], lambda t: texts.append(t) or t)
    return texts


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def _line(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    return text[start:].split("\n", 1)[0].strip()[:80]


def store(path: Path) -> list[str]:
    """Run, normalise and write back one notebook. Returns its `problems` and its broken links.

    Raises NotebookFailed, and then the file is as it was.
    """
    notebook = normalise(execute(path))
    # Into another file first: an interruption leaves the old notebook whole.
    beside = path.with_name(f".{path.name}.new")
    try:
        nbformat.write(notebook, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    if path.stem == COVER:
        path.with_name(PICTURE).write_bytes(first_picture(notebook))
    return problems(notebook) + links.broken(path)


def first_picture(notebook: NotebookNode) -> bytes:
    """The first figure of a stored notebook, as PNG. Raises ValueError when it has none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                return base64.b64decode(picture)
    raise ValueError("no figure in this notebook")


def main(arguments: list[str] | None = None) -> int:
    """Store each notebook that is named. 0 if all ran and have no problems, else 1."""
    parser = argparse.ArgumentParser(prog="python -m helpers.store", description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    failed = False
    for path in parser.parse_args(arguments).notebooks:
        if not path.is_file():
            print(f"{path}  there is no such notebook")
            failed = True
            continue
        started = time.monotonic()
        try:
            wrong, outcome = store(path), "stored"
        except NotebookFailed as error:
            wrong, outcome = str(error).splitlines(), "failed, left as it was"
        if wrong and outcome == "stored":
            outcome = f"stored, {len(wrong)} to mend"
        print(f"{path}  {time.monotonic() - started:.1f} s  {outcome}", flush=True)
        for line in wrong:
            print(f"    {line}", flush=True)
        failed = failed or bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
