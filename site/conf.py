"""The course as a website. `make site` renders the README, the notebooks as stored, the labs."""

import shutil
from pathlib import Path

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx

project = "Where Did My Task Go?"
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "notebooks/*.ipynb",
    "notebooks/*.md",
    "labs/lab_*.ipynb",
    "labs/*.md",
]
exclude_patterns = [".*", "**/.*", "site", "labs/solutions"]

extensions = ["myst_nb"]
nb_execution_mode = "off"
myst_heading_anchors = 3  # a link may name a heading, as on GitHub

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["course.css"]
html_css_files = ["course.css"]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_theme_options = {
    "navbar_persistent": [],  # or a second search field stands above the page
    "use_download_button": False,  # a notebook without its helpers does not run
    "footer_content_items": [],
}
html_copy_source = False
html_use_index = False

PARTS = {"The course": "notebooks/", "Labs": "labs/", "The project": "CONTRIBUTING"}


def add_contents(app: Sphinx, docname: str, source: list[str]) -> None:
    """End the README with the table of contents that the sidebar shows."""
    if docname != root_doc:
        return
    for caption, folder in PARTS.items():
        names = sorted(name for name in app.env.found_docs if name.startswith(folder))
        if names:
            head = ["```{toctree}", ":hidden:", f":caption: {caption}"]
            source[0] += "\n".join(["\n", *head, *map(entry, names), "```\n"])


def entry(docname: str) -> str:
    """The line of a page: numbered when its file is, `03 Evict the queue <the page>`."""
    number, _, words = Path(docname).name.partition("_")
    if not number.isdigit():
        return docname
    return f"{number} {words.replace('_', ' ').capitalize()} <{docname}>"


def with_alt_text(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
    images = render_image(self, data)
    for image in images:
        image["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
    return images


# MyST-NB drops the alt text that a figure's output carries.
render_image = NbElementRenderer.render_image
NbElementRenderer.render_image = with_alt_text  # type: ignore[method-assign]


def add_index(app: Sphinx, exception: Exception | None) -> None:
    """A server looks for index.html."""
    if exception is None:
        shutil.copy(app.outdir / f"{root_doc}.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_index)
