"""Run notebooks from a fresh kernel and store them with their results, the same on every machine.

`python -m helpers.authoring.notebooks notebook.ipynb ...`. A notebook that fails stays as it was.
"""

import argparse
import base64
import copy
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from helpers.authoring import links
from helpers.authoring.neutral import is_text, mapped, neutraliser, plain
from helpers.authoring.page_rules import WIDGET, fold_answers, is_page, problems

CELL_SECONDS = 300
# The README shows the first figure of the first notebook.
COVER, PICTURE = "00_start_here", "lost.png"


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


def _failure(
    notebook: NotebookNode,
    index: int,
    error: CellExecutionError | CellTimeoutError | DeadKernelError,
) -> tuple[str, str]:
    cell = notebook.cells[index]
    if isinstance(error, CellTimeoutError):
        brief = said = f"no end after {CELL_SECONDS} s"
    elif isinstance(error, DeadKernelError):
        brief = said = "the kernel died"
    else:
        raised = [out for out in cell.get("outputs", []) if out.output_type == "error"]
        said = plain("\n".join(raised[-1].traceback)) if raised else str(error)
        # A bare `assert` has no message. Then the line that raised says most.
        lines = re.findall(r"^-+> \d+ +(.*)", said, flags=re.MULTILINE)
        message = plain(error.evalue).strip() or (lines[-1] if lines else "")
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
    neutral = neutraliser()
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
        output.update(mapped({k: output[k] for k in ("evalue", "traceback")}, neutral))
    else:
        if "image/png" in output.data:
            output.data.pop("text/html", None)
        for mime, content in output.data.items():
            if is_text(mime):
                output.data[mime] = mapped(content, neutral)
    return output


def _squeezed(text: str) -> str:
    """What a terminal shows at the end: of a line that was overwritten, the last state."""

    def last(line: str) -> str:
        return next((part for part in reversed(line.split("\r")) if part), "")

    return "\n".join(last(line) for line in text.split("\n"))


def store(path: Path) -> list[str]:
    """Run, normalise and write back one notebook. Returns its `problems` and its broken links.

    Raises NotebookFailed, and then the file is as it was.
    """
    notebook = normalise(execute(path))
    if is_page(path.stem):
        fold_answers(notebook)
    # Into another file first: an interruption leaves the old notebook whole.
    beside = path.with_name(f".{path.name}.new")
    try:
        nbformat.write(notebook, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    if path.stem == COVER:
        path.with_name(PICTURE).write_bytes(first_picture(notebook))
    return problems(notebook, path.stem) + links.broken(path)


def first_picture(notebook: NotebookNode) -> bytes:
    """The first figure of a stored notebook, as PNG. Raises ValueError when it has none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                return base64.b64decode(picture)
    raise ValueError("no figure in this notebook")


def main(arguments: list[str] | None = None) -> int:
    """Store each notebook that is named. 0 if all ran and have no problems, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.authoring.notebooks", description=__doc__
    )
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
