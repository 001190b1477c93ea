"""The cells of a lab's solution notebook that its checks need: what is given, and one solution.

Read with json. An arm reads them too, and nbformat alone takes longer to import than all the rest.
"""

import ast
import json
from pathlib import Path
from typing import Any

SOLUTIONS = Path(__file__).parents[2] / "labs" / "solutions"


def cell(lab: str, tag: str, name: str) -> str:
    """The source of the one cell that is tagged `tag` and `name`.

    Raises LookupError when the lab has no notebook, or not exactly one such cell.
    """
    path = next(SOLUTIONS.glob(f"{lab}_*.ipynb"), None)
    if path is None:
        raise LookupError(f"no {lab}_*.ipynb in {SOLUTIONS}: its checks read there what is given")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = [it for it in cells if {tag, name} <= set(it["metadata"].get("tags", []))]
    if len(found) != 1:
        raise LookupError(
            f"{path.name} has {len(found)} cells that are tagged {tag!r} and {name!r}: "
            "one is needed"
        )
    return "".join(found[0]["source"])


def given(lab: str, name: str) -> Any:
    """What a lab gives for the exercise `name`, or as a further file such as "bank.py"."""
    return content(cell(lab, "given", name))


def content(source: str) -> Any:
    """What a cell gives: the text of the file that it writes, or else the value that it assigns."""
    if source.startswith("%%writefile "):
        return source.partition("\n")[2] + "\n"
    [assignment] = ast.parse(source).body
    assert isinstance(assignment, ast.Assign), source
    return ast.literal_eval(assignment.value)
