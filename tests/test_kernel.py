"""However a kernel ends, nothing of its experiment is left. Real kernels, the stored notebooks."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError

from helpers.authoring import ROOT, notebooks
from tests.conftest import SHOP, processes_in, wait_until_gone

FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
START = FOLDER / f"{notebooks.COVER}.ipynb"


def cells(path: Path) -> list[str]:
    """The code of each cell of a notebook."""
    notebook = nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


class Kernel:
    """A kernel as JupyterLab starts it, and a client that sends it cells."""

    def __init__(self) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(
            cwd=str(FOLDER), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    @property
    def pid(self) -> int:
        return self.manager.provisioner.pid

    def send(self, sources: list[str]) -> None:
        """Queue the cells, as Run All does, and return at once."""
        for source in sources:
            self.client.execute(source, allow_stdin=False)

    def run(self, source: str) -> str:
        """Run one cell to its end. Returns what it printed, and fails if it raised."""
        said: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            said.extend(content.get("traceback", [content.get("text", "")]))

        reply = self.client.execute_interactive(
            source, allow_stdin=False, timeout=60, output_hook=hear
        )
        assert reply["content"]["status"] == "ok", "\n".join([source, *said])
        return "".join(said)

    def run_until(self, source: str, kind: str) -> str:
        """Start a cell, and return its id when it shows its first message of this `kind`."""
        # After an error the kernel drops, for a moment, what comes next; a click would come later.
        cell = self.client.execute(source, allow_stdin=False, stop_on_error=False)
        deadline = time.monotonic() + 30
        while True:
            message = self.client.get_iopub_msg(timeout=max(0, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") == cell and message["msg_type"] == kind:
                return cell

    def reply_to(self, cell: str) -> dict[str, Any]:
        """How a cell ended."""
        deadline = time.monotonic() + 10
        while True:
            reply = self.client.get_shell_msg(timeout=max(0, deadline - time.monotonic()))
            if reply["parent_header"].get("msg_id") == cell:
                return reply["content"]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def restart(self) -> None:
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=60)

    def shut_down(self) -> None:
        self.manager.shutdown_kernel()


@pytest.fixture(autouse=True)
def jupyter_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


@pytest.fixture
def kernel(jupyter_of_its_own: None) -> Iterator[Kernel]:
    kernel = Kernel()
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def private_directories(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("where-did-my-task-go-*"))


def started(tmp_path: Path) -> bool:
    """Is there a server, a worker with its pool, and has somebody published?"""
    running = [line for here in private_directories(tmp_path) for line in processes_in(here)]
    return (
        any("-server" in line for line in running)
        and sum("celery" in line for line in running) >= 2
        and any(ledger.stat().st_size for ledger in tmp_path.glob("*/.*/ledger.jsonl"))
    )


def wait_until_started(tmp_path: Path) -> Path:
    """The private directory of an experiment that is under way."""
    deadline = time.monotonic() + 60
    while not started(tmp_path):
        assert time.monotonic() < deadline, "no experiment within 60 s"
        time.sleep(0.05)
    [here] = private_directories(tmp_path)
    return here


def wait_until_removed(path: Path) -> bool:
    deadline = time.monotonic() + 5
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not path.exists()


@pytest.mark.parametrize(
    ("path", "end"),
    [
        *((path, Kernel.kill) for path in NOTEBOOKS),
        (START, Kernel.restart),
        (START, Kernel.shut_down),
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else value.__name__,
)
def test_a_kernel_that_ends_in_the_middle(
    kernel: Kernel, tmp_path: Path, path: Path, end: Callable[[Kernel], None]
) -> None:
    kernel.send(cells(path))
    here = wait_until_started(tmp_path)
    end(kernel)
    assert wait_until_gone(here) == []
    assert wait_until_removed(here)


def test_a_cell_that_takes_too_long(tmp_path: Path, jupyter_of_its_own: None) -> None:
    seen: list[Path] = []

    def look(cell: nbformat.NotebookNode, **_: Any) -> None:
        if "settle" in cell.source:
            seen.append(wait_until_started(tmp_path))

    client = NotebookClient(
        nbformat.read(START, as_version=4),
        timeout_func=lambda cell: 1 if "settle" in cell.source else 60,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
        on_cell_execute=look,
    )
    with pytest.raises(CellTimeoutError):
        client.execute()
    [here] = seen
    assert wait_until_gone(here) == []
    assert wait_until_removed(here)


SETUP = f"""
import time
from helpers import Stack, private_directory
here = private_directory()
(here / "shop.py").write_text({SHOP!r})
stack = Stack(here)
worker = stack.start_worker("--concurrency=2")
shop = stack.load("shop")
print(here)
"""


@pytest.mark.parametrize(
    ("waits", "shows"),
    [
        ("shop.nap.delay(60); stack.settle(timeout=60)", "display_data"),  # its status line
        ("print('asleep'); time.sleep(60)", "stream"),  # a thread sends it while the cell sleeps
    ],
    ids=["settle", "sleep"],
)
def test_interrupt_stops_the_cell_and_nothing_else(kernel: Kernel, waits: str, shows: str) -> None:
    here = Path(kernel.run(SETUP).strip())
    look = "print(stack.processes(), stack.redis.pid, worker.pid, worker.children())"
    before = kernel.run(look)
    cell = kernel.run_until(waits, shows)
    kernel.manager.interrupt_kernel()
    assert kernel.reply_to(cell)["ename"] == "KeyboardInterrupt"

    assert kernel.run(look) == before
    assert "['redis', 'worker1']" in before
    answers = "print(stack.redis.client().ping(), shop.add.delay(2, 3).get(timeout=10))"
    assert kernel.run(answers) == "True 5\n"

    kernel.run("stack.close()")
    assert wait_until_gone(here) == []
    assert [path.name for path in here.iterdir() if path.name != "__pycache__"] == ["shop.py"]


def test_a_notebook_that_runs_twice_in_one_kernel(kernel: Kernel, tmp_path: Path) -> None:
    for _ in range(2):
        for source in cells(START):
            kernel.run(source)
        kernel.run(f"%cd -q {FOLDER}")  # out of the private directory
        for here in private_directories(tmp_path):
            assert wait_until_gone(here) == []


def test_a_notebook_that_is_run_again_from_the_top(kernel: Kernel, tmp_path: Path) -> None:
    """The second run takes the place of the first, which was never closed."""
    sources = cells(START)
    stop = next(i for i, source in enumerate(sources) if "start_worker" in source)
    for source in sources[: stop + 1]:
        kernel.run(source)
    [first] = private_directories(tmp_path)
    for source in sources[: stop + 1]:
        kernel.run(source)
    assert wait_until_gone(first) == []
    assert kernel.run("print(stack.processes())") == "['redis', 'worker1']\n"
