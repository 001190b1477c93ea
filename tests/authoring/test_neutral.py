"""No name and no place of the machine stays in what a notebook shows."""

import socket
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_output

from helpers.authoring import ROOT, notebooks, page_rules
from tests.authoring.pages import PNG, notebook, picture, stream

pytestmark = pytest.mark.usefixtures("machine")


def stored(*outputs: NotebookNode) -> list[NotebookNode]:
    return notebooks.normalise(notebook(*outputs)).cells[1].outputs


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("celery@boxwood ready", "celery@host ready"),
        ("gen123@BOXWOOD.", "gen123@host."),
        ("boxwoods and snowboxwood", "boxwoods and snowboxwood"),
        ("owned by ada", "owned by user"),
        ("adamant, ada-lovelace", "adamant, ada-lovelace"),
        ("/home/ada/notes.txt", "~/notes.txt"),
        ("/home/adam/notes.txt", "/home/adam/notes.txt"),
        ("in /var/folders/zz/x", "in /tmp/x"),
        (f"{ROOT}/notebooks", "./notebooks"),
    ],
)
def test_names_of_the_machine_become_neutral(
    said: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/var/folders/zz")
    plain, rich = stored(stream(said), new_output("display_data", data={"text/html": said}))
    assert plain.text == kept
    assert rich.data["text/html"] == kept


def test_pictures_are_left_alone() -> None:
    html = f'<img src="data:image/png;base64,{PNG}"> by ada'
    image, embedded = stored(picture(alt="a"), new_output("display_data", data={"text/html": html}))
    assert image.data["image/png"] == PNG
    assert embedded.data["text/html"] == html.replace("by ada", "by user")


def test_plain_words_are_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "root")
    monkeypatch.setattr(socket, "gethostname", lambda: "pc")
    said = "root on pc: celery@pc, gen7@PC. ada@pc.org"
    assert stored(stream(said))[0].text == "root on pc: celery@host, gen7@host. ada@pc.org"
    assert page_rules.problems(notebook(stream("root on pc\n")), "one") == []
    assert "celery@pc" in page_rules.problems(notebook(stream("celery@pc")), "one")[0]
