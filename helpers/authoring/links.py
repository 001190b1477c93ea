"""Does each link inside the repository lead to something: a file, or a heading of a page?"""

import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mistune
import nbformat


def broken(page: Path) -> list[str]:
    """The links of a notebook or a Markdown file that lead nowhere. Links to the web are not tried.

    A link has to be relative: a notebook has no other way to find its neighbours.
    """
    found = []
    for target in re.findall(r'(?:href|src)="([^"]*)"', _html(page)):
        link = urlsplit(unescape(target))
        if link.scheme or link.netloc:
            continue
        file = page.parent / unquote(link.path) if link.path else page
        if link.path.startswith("/") or not file.exists():
            found.append(f"no such file: {target}")
        elif link.fragment and unquote(link.fragment) not in _anchors(file):
            found.append(f"no such heading: {target}")
    return found


def _html(page: Path) -> str:
    if page.suffix == ".ipynb":
        cells = nbformat.read(page, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    else:
        text = page.read_text(encoding="utf-8")
    return str(mistune.html(text))


def _anchors(page: Path) -> set[str]:
    """What a link to a heading says: in a notebook as Jupyter makes it, else as GitHub does."""
    if page.suffix not in (".ipynb", ".md"):
        return set()
    headings = re.findall(r"<h\d>(.*?)</h\d>", _html(page), flags=re.DOTALL)
    titles = [unescape(re.sub("<[^>]*>", "", heading)).strip() for heading in headings]
    if page.suffix == ".md":
        titles = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
    return {title.replace(" ", "-") for title in titles}
