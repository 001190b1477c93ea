"""Makes the pages of the exercises from the notebooks in labs/solutions, which are their source.

A page is its solution without outputs and without the cells that are tagged `solution`.
"""

from pathlib import Path

import nbformat
from nbconvert.preprocessors import ClearOutputPreprocessor, TagRemovePreprocessor
from nbformat import NotebookNode

LABS = Path(__file__).parents[2] / "labs"
_STEPS = (
    TagRemovePreprocessor(enabled=True, remove_cell_tags={"solution"}),
    ClearOutputPreprocessor(enabled=True),
)


def page(solution: Path) -> NotebookNode:
    """The exercise's page that belongs to a solution."""
    notebook = nbformat.read(solution, as_version=4)
    for step in _STEPS:
        notebook, _ = step.preprocess(notebook, {})
    for cell in notebook.cells:  # a page lies one folder higher
        cell.source = cell.source.replace("](../../", "](../")
    return notebook


def main() -> None:
    """Write every page again."""
    for solution in sorted((LABS / "solutions").glob("*.ipynb")):
        nbformat.write(page(solution), LABS / solution.name)
        print(f"labs/{solution.name}")


if __name__ == "__main__":
    main()
