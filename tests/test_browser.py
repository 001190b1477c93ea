"""The pages as a learner meets them: JupyterLab in a real browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from helpers.authoring import ROOT, page_rules
from tests.conftest import processes_in, wait_until_gone

NOTEBOOK = "notebooks/03_evict_the_queue.ipynb"
FIRST = "notebooks/00_start_here.ipynb"
LAB = "labs/lab_06_hang_a_chord.ipynb"
CURRENT = "window.jupyterapp?.shell.currentWidget"
KERNEL = f"{CURRENT}?.sessionContext?.session?.kernel"
IDLE = f"{KERNEL}?.status === 'idle'"


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A copy of the course, without outputs: what is seen afterwards comes from this run."""
    copy = tmp_path / "the course"
    for folder in ("notebooks", "labs"):
        shutil.copytree(ROOT / folder, copy / folder)
    notebook = nbformat.read(copy / NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, copy / NOTEBOOK)
    return copy


@pytest.fixture
def address(chromium: str, tmp_path: Path, course: Path) -> Iterator[str]:
    """The address of a running JupyterLab, ready to take the path of a notebook."""
    private = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    environment = {
        **os.environ,
        **{f"JUPYTER_{name}": str(tmp_path / name.lower()) for name in private},
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    with (tmp_path / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
                *("--ServerApp.ip=127.0.0.1", "--ServerApp.port=0"),
                f"--ServerApp.root_dir={course}",
                "--LabApp.expose_app_in_browser=True",
            ],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield wait_for_address(tmp_path, server)
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=20)
    finally:
        server.kill()
        server.wait()
    assert wait_until_gone(tmp_path) == []
    assert list(tmp_path.glob("where-did-my-task-go-*")) == []


def wait_for_address(tmp_path: Path, server: subprocess.Popen[bytes]) -> str:
    """The server writes where it listens, with its token, once it does."""
    deadline = time.monotonic() + 60
    while True:
        for path in tmp_path.glob(f"runtime_dir/jpserver-{server.pid}.json"):
            if told := path.read_text():
                known = json.loads(told)
                return f"{known['url']}lab/tree/{{}}?reset&token={known['token']}"
        in_time = server.poll() is None and time.monotonic() < deadline
        assert in_time, (tmp_path / "lab.log").read_text()
        time.sleep(0.1)


def open_notebook(tab: Any, address: str, path: str) -> None:
    tab.goto(address.format(path))
    wait(tab, f"{IDLE} && {CURRENT}.content.widgets.length > 0", 60)


def run(tab: Any, command: str) -> None:
    """Start a command of JupyterLab, as from its menu."""
    tab.evaluate(f"() => {{ window.jupyterapp.commands.execute('notebook:{command}') }}")


def code_cell(tab: Any, text: str) -> Any:
    """The code cell in whose source `text` stands, in view."""
    number = tab.evaluate(
        f"text => {CURRENT}.content.widgets.findIndex(it => it.model.type === 'code' && "
        "it.model.sharedModel.source.includes(text))",
        text,
    )
    assert number >= 0, text
    tab.evaluate(f"number => {CURRENT}.content.scrollToItem(number)", number)
    return tab.locator(f".jp-Notebook .jp-Cell[data-windowed-list-index='{number}']")


def run_cell(tab: Any, text: str) -> Any:
    """Click into a cell, and run it by keyboard."""
    cell = code_cell(tab, text)
    cell.locator(".cm-content").click()
    tab.keyboard.press("Control+Enter")
    return cell


def wait(page: Any, condition: str, seconds: float) -> None:
    page.wait_for_function(condition, timeout=1000 * seconds, polling=200)


def photograph(page: Any, folder: Path) -> None:
    """Scroll through the notebook and store what a reader sees, screen by screen."""
    folder.mkdir(parents=True, exist_ok=True)
    scroller = page.locator(".jp-WindowedPanel-outer")
    scroller.evaluate("it => { it.scrollTop = 0 }")
    position = 0
    for number in range(100):
        page.wait_for_timeout(200)  # for what is drawn only when it comes into view
        page.screenshot(path=folder / f"{number:02d}.png")
        before, position = (
            position,
            scroller.evaluate(
                "it => { it.scrollBy(0, it.clientHeight - 60); return it.scrollTop }"
            ),
        )
        if position == before:
            break


@pytest.mark.timeout(240)
def test_run_all_in_a_real_browser(address: str, tab: Any, tmp_path: Path) -> None:
    open_notebook(tab, address, NOTEBOOK)
    run(tab, "run-all-cells")
    code = f"{CURRENT}.content.widgets.map(it => it.model).filter(it => it.type === 'code')"
    failed = "Array.from(it.sharedModel.outputs).some(out => out.output_type === 'error')"
    wait(
        tab,
        f"{IDLE} && ({code}.every(it => it.executionCount) || {code}.some(it => {failed}))",
        150,
    )

    cells = tab.evaluate(f"{CURRENT}.content.model.toJSON()")["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    errors = [output for output in outputs if output["output_type"] == "error"]
    assert errors == [], "\n".join(line for error in errors for line in error["traceback"])
    empty = [cell["source"] for cell in cells if cell["source"] and not cell["execution_count"]]
    assert empty == []

    photograph(tab, Path(os.environ.get("SCREENSHOTS", tmp_path / "screenshots")))

    figures = [output for output in outputs if "image/png" in output.get("data", {})]
    pictures = tab.locator(".jp-OutputArea-output img").evaluate_all(
        "all => all.map(it => ({wide: it.naturalWidth, alt: it.alt}))"
    )
    assert len(pictures) == len(figures) > 0
    assert [it for it in pictures if it["wide"] <= 100 or not it["alt"].strip()] == []

    handle = tab.get_by_role("slider").last
    handle.scroll_into_view_if_needed()
    before = int(float(handle.get_attribute("aria-valuenow")))
    handle.focus()
    tab.keyboard.press("ArrowRight")
    ask = f"""async () => {{
        const future = {KERNEL}.requestExecute({{code: "print(guess.value)"}});
        let said = "";
        future.onIOPub = message => {{ said += message.content.text ?? "" }};
        await future.done;
        return said.trim();
    }}"""
    assert tab.evaluate(ask) == str(before + 1)
    assert tab.locator(".widget-readout").last.inner_text() == str(before + 1)
    assert tab.errors == []


@pytest.mark.timeout(180)
def test_an_answer_opens_folded_until_its_cell_runs(address: str, tab: Any, course: Path) -> None:
    cells = nbformat.read(course / FIRST, as_version=4).cells
    answers = [cell for cell in cells if page_rules.FOLDED in cell.metadata.get("tags", [])]
    assert answers
    open_notebook(tab, address, FIRST)
    for answer in answers:
        cell = code_cell(tab, answer.source)
        cell.locator(".jp-OutputPlaceholder").wait_for(timeout=10_000)
        assert cell.locator(".jp-OutputArea-output:visible").count() == 0
    news = tab.get_by_text("official Jupyter news")
    assert news.count() == 0, "a question that binder/overrides.json answers (make lab puts it)"
    link = tab.locator(".jp-Notebook a", has_text="The list of symptoms")
    tab.evaluate(
        f"() => {{ {CURRENT}.content.scrollToItem({CURRENT}.content.widgets.length - 5) }}"
    )
    link.click()
    tab.locator(".jp-MarkdownViewer table").first.wait_for(timeout=10_000)
    open_notebook(tab, address, FIRST)

    run(tab, "run-all-cells")
    models = f"{CURRENT}.content.widgets.map(it => it.model).filter(it => it.type === 'code')"
    wait(tab, f"{IDLE} && {models}.every(it => it.executionCount)", 90)
    for answer in answers:
        cell = code_cell(tab, answer.source)
        cell.locator(".jp-OutputArea-output:visible").first.wait_for(timeout=10_000)
        assert cell.locator(".jp-OutputPlaceholder").count() == 0
    assert news.count() == 0
    assert tab.errors == []


# Looks at the output of the cell that runs, as often as it is painted.
WATCH = """cell => {
    window.seen = [];
    const look = () => {
        const output = cell.querySelector(".jp-OutputArea-output");
        window.seen.push([output ? output.offsetHeight : 0, output ? output.innerText : ""]);
        window.watching = requestAnimationFrame(look);
    };
    look();
}"""


@pytest.mark.timeout(180)
def test_a_lab_done_by_typing(address: str, tab: Any) -> None:
    open_notebook(tab, address, LAB)
    run_cell(tab, "check = Lab(")
    run_cell(tab, "guess = predict(")
    shop = code_cell(tab, "%%writefile shop.py")
    shop.locator(".cm-line", has_text="@app.task").first.click()
    tab.keyboard.press("End")
    tab.keyboard.type("(acks_late=True)", delay=20)
    tab.keyboard.press("Control+Enter")
    checking = run_cell(tab, "check.fire_the_body(")
    checking.evaluate(WATCH)
    said = checking.locator(".jp-OutputArea-output").filter(has_text="fire the body: ")
    said.wait_for(timeout=60_000)
    assert "✔ fire the body: correct" in said.inner_text()

    heights = [height for height, _ in tab.evaluate("window.seen")]
    lines = {text for _, text in tab.evaluate("window.seen") if "running live" in text}
    assert len(lines) >= 3, "the status line moves"
    shown = heights[next(number for number, height in enumerate(heights) if height) :]
    assert min(shown) == shown[0], "no frame without it, none in which the page jumps back"
    assert tab.errors == []


SETTLES = "evicted = stack.settle("


def run_until_it_settles(tab: Any) -> None:
    """Run All, until the first experiment is under way: the cells above have run, this has not."""
    run(tab, "run-all-cells")
    cells = f"{CURRENT}.content.widgets.map(it => it.model).filter(it => it.type === 'code')"
    here = f"{cells}.findIndex(it => it.sharedModel.source.startsWith('{SETTLES}'))"
    wait(
        tab,
        f"{KERNEL}?.status === 'busy' && {cells}[{here}].executionCount === null && "
        f"{cells}.slice(0, {here}).every(it => it.executionCount)",
        60,
    )


@pytest.mark.timeout(180)
def test_interrupt_and_restart_in_an_experiment(address: str, tab: Any, tmp_path: Path) -> None:
    open_notebook(tab, address, NOTEBOOK)
    run_until_it_settles(tab)
    run(tab, "interrupt-kernel")
    wait(tab, IDLE, 20)
    cells = tab.evaluate(f"{CURRENT}.content.model.toJSON()")["cells"]
    errors = [it["ename"] for cell in cells for it in cell.get("outputs", []) if "ename" in it]
    assert errors == ["KeyboardInterrupt"]

    run_cell(tab, SETTLES).locator("img").wait_for(timeout=60_000)
    run_until_it_settles(tab)
    places = list(tmp_path.glob("where-did-my-task-go-*"))
    assert any(processes_in(place) for place in places)
    run(tab, "restart-kernel")
    tab.keyboard.press("Enter")  # yes, restart
    assert [left for place in places for left in wait_until_gone(place)] == []
