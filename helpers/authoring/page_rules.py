"""What keeps a stored notebook from being fit to read.

Some rules hold for every notebook, some only for the numbered pages of the course.
"""

import re
from collections.abc import Iterator
from itertools import groupby, pairwise
from statistics import median

import nbformat
from nbformat import NotebookNode

from helpers.authoring.neutral import ABSOLUTE, BASE64, machine_names, plain, texts_of

MAX_KB = 400
WIDGET = "application/vnd.jupyter.widget-view+json"
# What a reader has to know before they start: "... Fifteen minutes to read, one minute to run.", or
# for a lab "Allow thirty minutes."
TIME = re.compile(
    r"(minute|second)s?\b.*\bto read\b.*\b(minute|second)s?\b.*\bto run\b|Allow\s+\S+\s+minutes",
    re.DOTALL,
)
MAX_LINES, MAX_LINES_OF_A_FILE = 25, 30

CELLS, WORDS, MEDIAN_LINES = (20, 45), (900, 1500), (2, 5)
MAX_CODE_IN_A_ROW = 2
STEPS = ["Predict", "Run", "Observe", "Explain", "Fix", "Prove"]
STEPS += ["Your turn", "In practice", "Further reading"]
NEEDED = ("In practice", "Further reading")
STEP = re.compile(rf"({'|'.join(STEPS)})\b")
ASKS = re.compile(r"^(\w+) = predict\(", re.MULTILINE)
FOLDED = "hide-output"  # https://myst-nb.readthedocs.io/en/latest/render/hiding.html


def problems(notebook: NotebookNode, name: str) -> list[str]:
    """What keeps the notebook called `name` from being fit to read. Empty when it is."""
    prose = _prose(notebook)
    found = [*_page_problems(notebook), *_heading_problems(prose), *_prose_problems(prose)]
    executed = 0
    for number, cell in enumerate(notebook.cells, start=1):
        wrong = list(_leaks(cell.source, [(ABSOLUTE, "an absolute path")]))
        if cell.cell_type == "code":
            executed += 1
            wrong += _code_problems(cell, executed)
        else:
            wrong += _one_part_problems(cell.source)
        found += [f"cell {number}: {text}" for text in wrong]
    if is_page(name):
        found += _course_problems(notebook)
    return found


def is_page(name: str) -> bool:
    """Whether a notebook of this name is a page of the course."""
    return name[:1].isdigit()


def _prose(notebook: NotebookNode) -> str:
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return _without_code("\n\n".join(cells))


def _without_code(text: str) -> str:
    return re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.MULTILINE | re.DOTALL)


def _parts(text: str) -> list[str]:
    """The second-level headings: what a page is divided by."""
    return re.findall(r"^##\s+(.*)", _without_code(text), flags=re.MULTILINE)


def _course_problems(notebook: NotebookNode) -> Iterator[str]:
    yield from _size_problems(notebook)
    yield from _step_problems(_parts(_prose(notebook)))
    yield from _row_problems(notebook)
    yield from _answer_problems(notebook)


def _size_problems(notebook: NotebookNode) -> Iterator[str]:
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    codes = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    # Blank lines cost a reader nothing, so here they do not count.
    lines = [sum(bool(line.strip()) for line in code.splitlines()) for code in codes]
    for amount, what, (least, most) in (
        (len(notebook.cells), "cells", CELLS),
        (sum(len(text.split()) for text in texts), "words", WORDS),
        (median(lines or [0]), "lines in the median code cell", MEDIAN_LINES),
    ):
        if amount < least:
            yield f"{amount:g} {what}, {least} at least"
        if amount > most:
            yield f"{amount:g} {what}, {most} at most"


def _step_problems(parts: list[str]) -> Iterator[str]:
    steps = []
    for heading in parts:
        if step := STEP.match(heading):
            steps.append(step[1])
            if heading != step[1] and not heading.startswith(f"{step[1]}: "):
                yield f"## {heading}: a step is called {step[1]}, or {step[1]}: and its subject"
    for earlier, later in pairwise(steps):
        if STEPS.index(later) < STEPS.index(earlier):
            yield f"## {later} comes after ## {earlier}"
    yield from (f"no ## {step}" for step in NEEDED if step not in steps)


def _row_problems(notebook: NotebookNode) -> Iterator[str]:
    """A sentence says what a cell does, and one what was seen."""
    numbered = enumerate(notebook.cells, start=1)
    for kind, cells in groupby(numbered, key=lambda entry: entry[1].cell_type):
        (number, _), *others = cells
        if kind == "code" and len(others) + 1 > MAX_CODE_IN_A_ROW:
            text = f"the first of {len(others) + 1} code cells in a row"
            yield f"cell {number}: {text}, {MAX_CODE_IN_A_ROW} at most without a sentence"


def fold_answers(notebook: NotebookNode) -> None:
    """What answers a question opens closed: nobody predicts what they can read.

    In JupyterLab until the cell runs, and on the website. GitHub shows it.
    https://nbformat.readthedocs.io/en/latest/format_description.html#cell-metadata
    """
    answering = _answering(notebook)
    for index, cell in enumerate(notebook.cells):
        cell.metadata.pop("collapsed", None)  # JupyterLab's menus store both
        cell.metadata.pop("jupyter", None)
        tags = [tag for tag in cell.metadata.pop("tags", []) if tag != FOLDED]
        if index in answering and cell.get("outputs"):
            cell.metadata["jupyter"] = {"outputs_hidden": True}
            tags.append(FOLDED)
        if tags:
            cell.metadata["tags"] = tags


def _is_folded(cell: NotebookNode) -> bool:
    in_lab = cell.metadata.get("jupyter", {}).get("outputs_hidden", False)
    return in_lab and FOLDED in cell.metadata.get("tags", [])


def _answering(notebook: NotebookNode) -> set[int]:
    """The cells from behind a question to the one that compares the prediction, by their index."""
    return {at for asked, end in _questions(notebook) for at in range(asked + 1, end + 1)}


def _questions(notebook: NotebookNode) -> Iterator[tuple[int, int]]:
    """Where a prediction is asked for, and where it is compared: at the place itself if nowhere."""
    codes = [(at, cell) for at, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    asked = [(at, match[1]) for at, cell in codes if (match := ASKS.search(cell.source))]
    for (at, name), (end, _) in pairwise([*asked, (len(notebook.cells), "")]):
        uses = (n for n, cell in codes if at < n < end and re.search(rf"\b{name}\b", cell.source))
        yield at, next(uses, at)


def _answer_problems(notebook: NotebookNode) -> Iterator[str]:
    """From a question to the cell that compares the prediction, nothing tells the answer."""
    for question, answer in _questions(notebook):
        if answer == question:
            yield f"cell {question + 1}: a prediction that is never compared"
    for index in sorted(_answering(notebook)):
        cell, place = notebook.cells[index], f"cell {index + 1}"
        if cell.cell_type == "code" and re.search(r"^\s*assert\b", cell.source, re.MULTILINE):
            yield f"{place}: an assert beside the answer to a Predict, or before it"
        if cell.get("outputs") and not _is_folded(cell):
            yield f"{place}: its output is in sight of the question (make notebooks folds it)"


def _one_part_problems(text: str) -> Iterator[str]:
    """A cell for each part: it can be linked, and its diff is short."""
    if len(parts := _parts(text)) > 1:
        yield f"{len(parts)} parts, one at most: {', '.join(parts)}"


def _code_problems(cell: NotebookNode, count: int) -> Iterator[str]:
    if cell.execution_count != count:
        yield f"execution count {cell.execution_count}, expected {count}"
    most = MAX_LINES_OF_A_FILE if cell.source.startswith("%%writefile") else MAX_LINES
    if (lines := len(cell.source.splitlines())) > most:
        yield f"{lines} lines of code, {most} at most"
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
    order = ["do", "learn", "need"]
    yield from (f"no What you'll {what}" for what in order if what not in told)
    if sorted(told) != list(told):
        yield "What you'll do, learn, need: in another order"
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
