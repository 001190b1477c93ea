"""Small notebooks for the tests: one of two cells, and one that is a whole page of the course."""

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

INTRO = """**What you'll do.** Count.

**What you'll learn.** To count.

**What you'll need.** Two minutes to read, half
a minute to run."""
PNG = "iVBORw0KGgo/tmp/x+boxwood+AAAA="

# Cells stand between lines of three dashes; one that begins with "In:" is code.
BODY = """
---
In:
x = 1
y = 2
---
Look.
"""
PAGE = f"""# One

{INTRO}
---
In:
import time

from helpers import Stack
---
{"word " * 900}{BODY * 6}
---
## Predict
---
In:
guess = predict("orders", low=0, high=9)
---
## Run
---
In:
send()
kill()
---
## Observe
---
In:
outcome = settle()
plots.fates(outcome, prediction=guess)
---
In:
assert outcome.lost == 3
assert outcome.done == 6
---
## Explain: why
---
## In practice

```
## no heading
```
---
## Further reading
"""


def course(page: str = PAGE) -> NotebookNode:
    """A page of the course."""
    made: list[NotebookNode] = []
    for text in page.split("\n---\n"):
        if text.startswith("In:\n"):
            count = sum(cell.cell_type == "code" for cell in made) + 1
            made.append(new_code_cell(text.removeprefix("In:\n"), execution_count=count))
        else:
            made.append(new_markdown_cell(text))
    return new_notebook(cells=made)


def notebook(
    *outputs: NotebookNode, source: str = "1 + 1", title: str = "# One", intro: str = INTRO
) -> NotebookNode:
    """An introduction, and one cell that has run."""
    code = new_code_cell(source, execution_count=1, outputs=list(outputs), id="run")
    return new_notebook(cells=[new_markdown_cell(f"{title}\n\n{intro}", id="top"), code])


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def picture(**metadata: object) -> NotebookNode:
    data = {"image/png": PNG, "text/plain": "<Figure>"}
    return new_output("display_data", data=data, metadata=metadata)
