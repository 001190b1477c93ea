"""Storing notebooks: what is normalised, and that a failure loses nothing."""

import copy
from pathlib import Path

import pytest
from nbformat import NotebookNode, write
from nbformat.v4 import new_code_cell, new_notebook, new_output

from helpers.authoring import notebooks, page_rules
from tests.authoring.pages import notebook, picture, stream

pytestmark = pytest.mark.usefixtures("machine")


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


def test_storing_a_page_folds_its_answer_and_no_other_notebook(tmp_path: Path) -> None:
    ask = "from helpers import predict\nguess = predict('lost', 0, 3)"
    cells = [new_code_cell(source) for source in (ask, "print('before')", "print(guess)")]
    for name, folded in (("99_page", 2), ("lab_99", 0)):
        path = tmp_path / f"{name}.ipynb"
        write(new_notebook(cells=cells), path)
        notebooks.store(path)
        assert path.read_text().count("outputs_hidden") == folded


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
