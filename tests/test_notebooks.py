"""Every notebook: what is stored is fit to read, and it runs from a fresh kernel."""

from pathlib import Path

import nbformat
import pytest

from helpers.authoring import ROOT, links, notebooks, page_rules

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@every_notebook
def test_stored_notebook_has_no_problems(path: Path) -> None:
    assert page_rules.problems(nbformat.read(path, as_version=4), path.stem) == []


PAGES = NOTEBOOKS + [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_each_link_inside_the_repository_leads_somewhere(path: Path) -> None:
    assert links.broken(path) == []


# Each cell has its own bound in helpers.authoring.notebooks; this is the outer one.
@pytest.mark.timeout(600)
@every_notebook
def test_notebook_runs_from_a_fresh_kernel(path: Path) -> None:
    stored = path.read_bytes()
    ran = notebooks.normalise(notebooks.execute(path))
    assert path.read_bytes() == stored
    assert page_rules.problems(ran, path.stem) == []


def test_the_readme_shows_the_figure_that_is_stored() -> None:
    folder = ROOT / "notebooks"
    notebook = nbformat.read(folder / f"{notebooks.COVER}.ipynb", as_version=4)
    assert (folder / notebooks.PICTURE).read_bytes() == notebooks.first_picture(notebook)
    assert f"notebooks/{notebooks.PICTURE}" in (ROOT / "README.md").read_text(encoding="utf-8")


# A page is listed where readers look for it. Each place has columns of its own, so by hand.
PLACES = {
    "README.md": NOTEBOOKS,
    "labs/workshop.md": NOTEBOOKS,
    "notebooks/00_start_here.ipynb": NOTEBOOKS[1:],
}


@pytest.mark.parametrize("place", PLACES)
def test_each_page_is_listed(place: str) -> None:
    text = (ROOT / place).read_text(encoding="utf-8")
    assert [page.name for page in PLACES[place] if f"{page.name})" not in text] == []


def test_the_readme_has_some_rows_of_the_list_of_symptoms() -> None:
    """Word for word, so the two cannot contradict each other."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    _, _, table = readme.partition("## Something broke just now?")
    rows = [line for line in table.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    listed = (ROOT / "notebooks" / "symptoms.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) > 5
    assert [row for row in rows if row.replace("(notebooks/", "(") not in listed] == []


@pytest.mark.parametrize("place", ["README.md", "labs/workshop.md"])
def test_each_lab_is_listed(place: str) -> None:
    text = (ROOT / place).read_text(encoding="utf-8")
    assert [lab.name for lab in (ROOT / "labs").glob("lab_*.ipynb") if lab.name not in text] == []
