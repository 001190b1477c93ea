"""The website: it builds without a network, its links lead somewhere, and everybody can read it."""

import functools
import http.server
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup

from helpers.authoring import ROOT, page_rules

# All but the README's neighbours .ci and .github.
NOT_OURS = shutil.ignore_patterns(".git", ".[!cg]*", "_build", "__pycache__")
PAGE = "# {}\n\n[Back](../README.md)\n"
CUT = ["unshare", "--map-root-user", "--net"]
READ = (
    ("", "light", 1280),
    ("notebooks/03_evict_the_queue.html", "light", 1280),
    ("notebooks/03_evict_the_queue.html", "dark", 390),
    ("notebooks/04_restart_the_broker.html", "dark", 1280),
    ("notebooks/04_restart_the_broker.html", "light", 420),
    ("notebooks/settings.html", "light", 1280),
    ("notebooks/settings.html", "dark", 420),
    ("notebooks/symptoms.html", "light", 420),
    ("CONTRIBUTING.html", "light", 1280),
    ("search.html?q=visibility+timeout", "light", 390),
)
# Code and tables that go on where their box ends. On a telephone a DataFrame may scroll in itself.
CUT_OFF = """() => {
    const narrow = innerWidth < 600;
    const all = narrow ? "article pre, article table:not(.dataframe)" : "article :is(pre, table)";
    const right = document.querySelector("main").getBoundingClientRect().right;
    return [...document.querySelectorAll(all)].filter(it => it.offsetWidth && (
        it.scrollWidth > it.clientWidth + 1 || it.getBoundingClientRect().right > right + 1
    )).map(it => it.innerText.slice(0, 60));
}"""
HTML = Path("site") / "_build" / "html"


@functools.cache
def network_can_be_cut() -> bool:
    if shutil.which(CUT[0]) is None:
        return False
    return subprocess.run([*CUT, "true"], capture_output=True, timeout=10).returncode == 0


def build(root: Path) -> subprocess.CompletedProcess[str]:
    """What `make site` does, with the Python of the tests, and without a network if that can be."""
    recipe = subprocess.run(
        ["make", "--dry-run", "--silent", "site", f"python={shlex.quote(sys.executable)}"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    [sphinx] = [line for line in recipe.stdout.splitlines() if " -m sphinx " in line]
    return subprocess.run(
        [*(CUT if network_can_be_cut() else []), "sh", "-c", sphinx],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of a copy of the repository, to which pages of each kind are added."""
    root = tmp_path_factory.mktemp("site") / "my tasks"
    shutil.copytree(ROOT, root, ignore=NOT_OURS)
    (root / "labs" / "solutions").mkdir(parents=True, exist_ok=True)
    for name in ("notebooks/settings", "labs/workshop", "labs/solutions/answer"):
        if not (root / f"{name}.md").exists():
            (root / f"{name}.md").write_text(PAGE.format(Path(name).name))
    for name in ("notebooks/99_stay_calm", "labs/lab_99_stay_calm", "labs/solutions/lab_99_answer"):
        cell = nbformat.v4.new_markdown_cell(PAGE.format(Path(name).name))
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), root / f"{name}.ipynb")
    done = build(root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root / HTML


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, BeautifulSoup]:
    """Each page, parsed. What lies in _static is no page."""
    paths = [path for path in site.rglob("*.html") if path.parent.name != "_static"]
    return {path: BeautifulSoup(path.read_bytes(), "html.parser") for path in paths}


def link_problems(path: Path, pages: dict[Path, BeautifulSoup]) -> Iterator[str]:
    for link in pages[path].select("a[href]"):
        target = urlsplit(link["href"])
        if target.scheme in ("http", "https"):
            continue
        place = (path.parent / unquote(target.path)).resolve() if target.path else path
        if not place.is_file():
            yield f"no such file: {link['href']}"
        elif target.fragment and not pages[place].find(id=unquote(target.fragment)):
            yield f"no such anchor: {link['href']}"


def picture_problems(page: BeautifulSoup) -> Iterator[str]:
    for picture in page.select("img"):
        if not picture.get("alt", "").strip():
            yield f"a picture without alt text: {picture['src']}"


def heading_problems(page: BeautifulSoup) -> Iterator[str]:
    headings = page.select("h1, h2, h3, h4, h5, h6")
    # The theme adds a title and a table of contents that only paper shows.
    headings = [heading for heading in headings if not heading.find_parent(class_="onlyprint")]
    levels = [int(heading.name[1]) for heading in headings]
    if levels.count(1) != 1 or levels[0] != 1:
        yield f"not one first heading: {levels}"
    for heading, (before, level) in zip(headings[1:], pairwise(levels), strict=True):
        if level > before + 1:
            yield f"heading level {before} is followed by {level}: {heading.get_text()}"


def foreign_problems(page: BeautifulSoup) -> Iterator[str]:
    for element in page.select("[src], [srcset], [data], link[href]"):
        for name in ("src", "srcset", "data", "href"):
            target = urlsplit(str(element.get(name, "")))
            if target.scheme not in ("", "data") or target.netloc:
                yield f"loads from elsewhere: {element[name]}"


def problems(path: Path, pages: dict[Path, BeautifulSoup]) -> list[str]:
    page = pages[path]
    return [
        *link_problems(path, pages),
        *picture_problems(page),
        *heading_problems(page),
        *foreign_problems(page),
    ]


def test_it_builds_without_a_network(site: Path) -> None:
    assert (site / "index.html").is_file()
    if not network_can_be_cut():
        pytest.skip("not run: this machine does not let a test cut its network; it was built with")


def test_every_page_is_there_and_no_solution(site: Path, pages: dict[Path, BeautifulSoup]) -> None:
    root = site.parents[len(HTML.parts) - 1]
    names = (
        "README.md",
        "CONTRIBUTING.md",
        "notebooks/*.ipynb",
        "notebooks/*.md",
        "labs/*.ipynb",
        "labs/*.md",
    )
    sources = [path.relative_to(root) for name in names for path in root.glob(name)]
    expected = {site / path.with_suffix(".html") for path in sources}
    assert set(pages) == expected | {site / "index.html", site / "search.html"}
    assert not [path for path in site.rglob("*") if "answer" in path.name]


def test_the_sidebar_has_the_course_in_its_order(pages: dict[Path, BeautifulSoup]) -> None:
    for path, page in pages.items():
        captions = [caption.get_text(strip=True) for caption in page.select("nav .caption")]
        assert captions == ["The course", "Labs", "The project"], path
        entries = [link.get_text(strip=True) for link in page.select("nav .toctree-l1 > a")]
        numbered = [entry for entry in entries if entry[0].isdigit()]
        assert numbered == sorted(numbered) == entries[: len(numbered)], path
        assert numbered[0] == "00 Start here" and numbered[-1] == "99 Stay calm", path


def test_no_page_has_a_problem(pages: dict[Path, BeautifulSoup]) -> None:
    found = {path.name: problems(path, pages) for path in pages}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_each_problem_is_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.html"
    path.write_text(
        '<h1>one</h1><h3>three</h3><a href="gone.html">gone</a><a href="#gone">gone</a>'
        '<img src="a.png"><script src="https://example.org/a.js"></script>'
        '<link rel="stylesheet" href="//example.org/a.css">'
    )
    page = BeautifulSoup(path.read_bytes(), "html.parser")
    assert [line.partition(":")[0] for line in problems(path, {path: page})] == [
        "no such file",
        "no such anchor",
        "a picture without alt text",
        "heading level 1 is followed by 3",
        "loads from elsewhere",
        "loads from elsewhere",
    ]


def test_a_dead_link_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Title\n\n[gone](notebooks/gone.ipynb)\n")
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "site", tmp_path / "site", ignore=NOT_OURS)
    done = build(tmp_path)
    assert done.returncode != 0 and "notebooks/gone.ipynb" in done.stderr


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site on a server of its own, as GitHub Pages would serve it."""
    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_an_answer_opens_folded(address: str, site: Path, tab: Any) -> None:
    root = site.parents[len(HTML.parts) - 1]
    cells = nbformat.read(root / "notebooks" / "00_start_here.ipynb", as_version=4).cells
    answers = sum(page_rules.FOLDED in cell.metadata.get("tags", []) for cell in cells)
    tab.goto(address + "notebooks/00_start_here.html")
    toggles = tab.locator("article details")
    assert toggles.count() == answers > 0
    for toggle in toggles.all():
        assert toggle.locator(".output:visible").count() == 0
        toggle.locator("summary").click()
        assert toggle.locator(".output:visible").count() > 0


def test_everybody_can_read_it(address: str, tab: Any) -> None:
    axe_playwright = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="not run: no axe-playwright-python"
    )
    axe = axe_playwright.Axe()
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    found = []
    for name, scheme, width in READ:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # no colour on its way
        tab.goto(address + name)
        if "search" in name:
            tab.wait_for_selector("#search-results li a:has-text('Run it twice')")
        if tab.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{name} is wider than {width} pixels")
        found += [f"{name} {width} is cut off: {it}" for it in tab.evaluate(CUT_OFF)]
        for wrong in axe.run(tab).response["violations"]:
            if wrong["impact"] in ("serious", "critical"):
                found += [f"{name} {width} {wrong['id']} {it['target']}" for it in wrong["nodes"]]
    assert found == []
    assert [url for url in requests if not url.startswith((address, "data:"))] == []
    assert tab.errors == []
