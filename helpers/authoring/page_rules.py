"""What keeps a stored notebook from being fit to read."""

import re
from collections.abc import Iterator

import nbformat
from nbformat import NotebookNode

from helpers.authoring.neutral import ABSOLUTE, BASE64, machine_names, plain, texts_of

MAX_KB = 400
MAX_LINES = 25
WIDGET = "application/vnd.jupyter.widget-view+json"
# What a reader has to know before they start: "... Fifteen minutes to read, one minute to run.", or
# for a lab "Allow thirty minutes."
TIME = re.compile(
    r"(minute|second)s?\b.*\bto read\b.*\b(minute|second)s?\b.*\bto run\b|Allow\s+\S+\s+minutes",
    re.DOTALL,
)


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
    names += [(pattern, f"the name of the {word}") for pattern, word in machine_names()]
    for output in cell.outputs:
        yield from _output_problems(output)
        yield from _leaks("\n".join(texts_of(output)), names)


def _leaks(text: str, patterns: list[tuple[re.Pattern[str], str]]) -> Iterator[str]:
    # Without pictures inside HTML, and without the colours of a traceback.
    text = BASE64.sub("", plain(text))
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


def _line(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    return text[start:].split("\n", 1)[0].strip()[:80]
