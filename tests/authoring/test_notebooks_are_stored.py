"""Storing notebooks: what is normalised, what is refused, and that a failure loses nothing."""

import copy
import socket
from pathlib import Path

import pytest
from nbformat import NotebookNode, write
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.authoring import ROOT, notebooks, page_rules

INTRO = """**What you'll do.** Count.

**What you'll learn.** To count.

**What you'll need.** Two minutes to read, half
a minute to run."""
PNG = "iVBORw0KGgo/tmp/x+boxwood+AAAA="


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "boxwood")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def picture(**metadata: object) -> NotebookNode:
    data = {"image/png": PNG, "text/plain": "<Figure>"}
    return new_output("display_data", data=data, metadata=metadata)


def notebook(
    *outputs: NotebookNode, source: str = "1 + 1", title: str = "# One", intro: str = INTRO
) -> NotebookNode:
    code = new_code_cell(source, execution_count=1, outputs=list(outputs), id="run")
    return new_notebook(cells=[new_markdown_cell(f"{title}\n\n{intro}", id="top"), code])


def stored(*outputs: NotebookNode) -> list[NotebookNode]:
    return notebooks.normalise(notebook(*outputs)).cells[1].outputs


def test_normalise_changes_a_copy() -> None:
    original = notebook(stream("on boxwood\n"))
    before = copy.deepcopy(original)
    assert notebooks.normalise(original) != before
    assert original == before


def test_normalise_twice_is_normalise_once() -> None:
    outputs = [stream("a\rb\n"), stream("celery@boxwood\n"), picture(alt="a line")]
    once = notebooks.normalise(notebook(*outputs))
    assert notebooks.normalise(once) == once


def test_metadata_is_the_same_everywhere() -> None:
    original = notebook()
    original.metadata.widgets = {"state": {}}
    original.metadata.kernelspec = {"name": "venv", "display_name": "My Python"}
    original.metadata.language_info = {"name": "python", "version": "3.11.7"}
    original.cells[1].metadata = NotebookNode(execution={"iopub.status.idle": "x"}, tags=["keep"])
    after = notebooks.normalise(original)
    assert "widgets" not in after.metadata
    assert after.metadata.kernelspec.name == "python3"
    assert after.metadata.language_info.version == "3"
    assert after.cells[1].metadata == {"tags": ["keep"]}
    assert [cell.id for cell in after.cells] == ["top", "run"]


def test_streams_are_merged_and_progress_is_squeezed() -> None:
    outputs = stored(
        stream("10 %\r50 "), stream("%\rdone  \r\nnext\n"), stream("!\n", "stderr"), stream("end")
    )
    assert [(out.name, out.text) for out in outputs] == [
        ("stdout", "done  \nnext\n"),
        ("stderr", "!\n"),
        ("stdout", "end"),
    ]


def test_widgets_and_html_twins_are_dropped() -> None:
    widget = new_output("display_data", data={page_rules.WIDGET: {}, "text/plain": "IntSlider()"})
    twin = picture(alt="a line")
    twin.data["text/html"] = "<img>"
    table = new_output("display_data", data={"text/html": "<table>"})
    outputs = stored(widget, twin, table)
    assert [set(out.data) for out in outputs] == [{"image/png", "text/plain"}, {"text/html"}]
    assert outputs[0].metadata == {"alt": "a line"}


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
    assert page_rules.problems(notebook(stream("root on pc\n"))) == []
    assert "celery@pc" in page_rules.problems(notebook(stream("celery@pc")))[0]


def test_a_good_notebook_has_no_problems() -> None:
    good = notebook(stream("fine\n"), picture(**{"image/png": {"alt": "a line"}}))
    good.cells.append(new_markdown_cell("## Two\n\n```sh\n# no heading\n```\n\n### Three"))
    assert page_rules.problems(notebooks.normalise(good)) == []


TWIN = picture(alt="a")
TWIN.data["text/html"] = "<img>"
FAULTS = {
    "execution count 3, expected 1": notebook(),
    "expected 1": notebook(),
    "ends in ValueError": notebook(
        new_output("error", ename="ValueError", evalue="", traceback=[])
    ),
    "metadata.widgets": notebook(),
    "an absolute path: see /home/bob": notebook(stream("see /home/bob/x")),
    "an absolute path: /tmp/x": notebook(source="open('x')  #\n/tmp/x"),
    "an absolute path: at /root/x": notebook(title="# One\n\nat /root/x"),
    "the name of the host": notebook(stream("celery@boxwood")),
    "the name of the user": notebook(stream("drwx ada")),
    "410 KB, 400 KB at most": notebook(stream("x" * 419_000)),
    "0 first-level headings": notebook(title="no heading"),
    "2 first-level headings": notebook(title="# One\n\n# Two"),
    "level 1 is followed by 3": notebook(title="# One\n\n### Three"),
    "26 lines of code": notebook(source="\n".join(["1"] * 26)),
    "text/html beside image/png": notebook(TWIN),
    "a picture without alt text": notebook(picture()),
    "a picture in the text without alt text": notebook(title="# One\n\n![](beside.png)"),
    "no What you'll do": notebook(intro=INTRO.replace("do.", "see.")),
    "no What you'll learn": notebook(intro=INTRO.replace("learn.", "see.")),
    "no What you'll need": notebook(intro=INTRO.replace("need.", "see.")),
    "how long it takes": notebook(intro=INTRO.replace(" to run", "")),
    "a widget": notebook(new_output("display_data", data={page_rules.WIDGET: {}})),
}
FAULTS["execution count 3, expected 1"].cells[1].execution_count = 3
FAULTS["expected 1"].cells[1].execution_count = None
FAULTS["metadata.widgets"].metadata.widgets = {}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    found = page_rules.problems(FAULTS[fault])
    assert any(fault in text for text in found), found


def test_storing_runs_in_the_notebooks_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "with space" / "one.ipynb"
    path.parent.mkdir()
    (path.parent / "beside.txt").write_text("found it")
    write(notebook(source="print(open('beside.txt').read())"), path)
    assert notebooks.main([str(path)]) == 0
    assert "found it" in path.read_text()
    assert [entry.name for entry in path.parent.glob("*.ipynb*")] == ["one.ipynb"]
    assert "stored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nraise ValueError('gone')", "ValueError: gone"),
        ("import os\nos._exit(3)", "the kernel died"),
        ("import time\ntime.sleep(60)", "no end after 2 s"),
    ],
)
def test_a_failing_notebook_is_left_as_it_was(
    source: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notebooks, "CELL_SECONDS", 2 if "sleep" in source else 60)
    path = tmp_path / "bad.ipynb"
    write(notebook(source=source), path)
    before = path.read_bytes()
    assert notebooks.main([str(path)]) == 1
    assert path.read_bytes() == before
    out = capsys.readouterr().out
    assert said in out
    assert f"cell 2: {source.splitlines()[0]}" in out


@pytest.mark.parametrize(
    ("source", "brief"),
    [
        ("raise ValueError('gone\\nfor good')", "cell 2: ValueError: gone"),
        ("x = 1\nassert x == 2", "cell 2: AssertionError: assert x == 2"),
        ("import os\nos._exit(3)", "cell 2: the kernel died"),
    ],
)
def test_a_failure_in_one_line(source: str, brief: str, tmp_path: Path) -> None:
    write(notebook(source=source), tmp_path / "bad.ipynb")
    with pytest.raises(notebooks.NotebookFailed) as failed:
        notebooks.execute(tmp_path / "bad.ipynb")
    assert failed.value.brief == brief


def test_a_notebook_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert notebooks.main([str(tmp_path / "no.ipynb")]) == 1
    assert "no such notebook" in capsys.readouterr().out
