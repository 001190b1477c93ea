"""Links that lead nowhere are found, and only those."""

from pathlib import Path

import pytest
from nbformat import write
from nbformat.v4 import new_markdown_cell, new_notebook

from helpers.authoring import links

GOOD = """# The first page

[the web](https://example.org/gone), [mail](mailto:ada@example.org), [here](#the-first-page),
[a
notebook](sub/two.ipynb), [its heading](sub/two.ipynb#What-you'll-need), [a reference][one],
[a space](with%20space.txt), ![a picture](with%20space.txt), <a href="sub">a folder</a>,
`[code](gone.md)`

```
[code](gone.md)
```

[one]: sub/two.ipynb
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "with space.txt").touch()
    cells = [new_markdown_cell("# Two\n\n[up](../one.md#the-first-page)\n\n## What you'll need")]
    write(new_notebook(cells=cells), tmp_path / "sub" / "two.ipynb")
    (tmp_path / "one.md").write_text(GOOD)
    return tmp_path / "one.md"


def test_good_links(page: Path) -> None:
    assert links.broken(page) == []
    assert links.broken(page.parent / "sub" / "two.ipynb") == []


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("[x](gone.md)", "no such file: gone.md"),
        ("![x](gone.png)", "no such file: gone.png"),
        ("[x](/one.md)", "no such file: /one.md"),
        ("[x][gone]\n\n[gone]: gone.md", "no such file: gone.md"),
        ('<img src="gone.png">', "no such file: gone.png"),
        ("[x](#gone)", "no such heading: #gone"),
        ("[x](sub/two.ipynb#what-youll-need)", "no such heading: sub/two.ipynb#what-youll-need"),
        ("[x](sub#gone)", "no such heading: sub#gone"),
    ],
)
def test_each_dead_link_is_found(page: Path, link: str, said: str) -> None:
    page.write_text(f"{GOOD}\n{link}\n")
    assert links.broken(page) == [said]


def test_a_dead_link_in_a_notebook_is_found(page: Path) -> None:
    page.unlink()
    found = links.broken(page.parent / "sub" / "two.ipynb")
    assert found == ["no such file: ../one.md#the-first-page"]
