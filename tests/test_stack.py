"""The stack with real servers and real workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import redis
from celery import _state

from helpers import Stack, lens, private_directory, reaper, status
from helpers.brokers import redis as redis_server
from helpers.errors import StackError
from helpers.faults import down
from tests.conftest import SHOP, processes_in, wait_until_gone


def test_a_task_runs_and_is_counted(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    assert shop.add.delay(2, 3).get(timeout=10) == 5
    outcome = stack.settle()
    assert outcome.counts == {"done": 1}
    assert outcome.verdict == "survived"
    assert "-A shop worker" in worker.command_line and "--concurrency=1" in worker.command_line
    assert worker.log.errors == []


def test_repr_shows_server_and_command_and_no_password(stack: Stack) -> None:
    stack.start_worker("--concurrency=1")
    shown = repr(stack)
    assert f"127.0.0.1:{stack.redis.port}" in shown
    assert "python -m celery -A shop worker" in shown
    assert stack.redis._password not in shown


def test_two_servers_and_no_backend(shop_directory: Path) -> None:
    with Stack(shop_directory, backend={"maxmemory": "8mb"}) as stack:
        stack.start_worker("--concurrency=1")
        shop = stack.load("shop")
        result = shop.add.delay(1, 1)
        assert result.get(timeout=10) == 2
        assert f"celery-task-meta-{result.id}" in lens.keys(stack.results).index
        assert stack.results.pid != stack.redis.pid
    with Stack(shop_directory, backend=None) as stack:
        stack.start_worker("--concurrency=1")
        result = stack.load("shop").add.delay(1, 1)
        with pytest.raises(NotImplementedError):
            result.get(timeout=1)
        assert stack.settle().counts == {"done": 1}


def test_two_stacks_in_one_process_do_not_cross(shop_directory: Path) -> None:
    with Stack(shop_directory, name="broken") as one, Stack(shop_directory, name="fixed") as two:
        first, second = one.load("shop"), two.load("shop")
        for _ in range(3):
            first.add.delay(1, 1)
        second.add.delay(1, 1)
        assert lens.depth(one.redis)["waiting"].tolist() == [3]
        assert lens.depth(two.redis)["waiting"].tolist() == [1]
        assert [len(each.ledger.of("accepted")) for each in (one, two)] == [3, 1]


def test_an_address_in_the_environment_is_not_used(
    shop_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    with (
        pytest.warns(UserWarning, match="CELERY_BROKER_URL is not used"),
        Stack(shop_directory) as stack,
    ):
        stack.start_worker("--concurrency=1")
        assert stack.load("shop").add.delay(1, 1).get(timeout=10) == 2


@pytest.mark.filterwarnings("ignore::helpers.errors.AnotherBroker")
def test_an_application_with_its_own_address_stays_in_its_stack(shop_directory: Path) -> None:
    with (shop_directory / "shop.py").open("a") as file:
        file.write('\napp.conf.broker_url = app.conf.broker_write_url = "redis://127.0.0.1:1/0"\n')
        file.write('app.conf.result_backend = "redis://127.0.0.1:1/1"\n')
    with Stack(shop_directory) as stack:
        stack.start_worker("--concurrency=1")
        assert stack.load("shop").add.delay(1, 1).get(timeout=10) == 2


def test_the_file_is_loaded_afresh(stack: Stack, shop_directory: Path) -> None:
    file = shop_directory / "shop.py"
    text = file.read_text()
    for answer in "123":  # the same size within the same second
        file.write_text(text + f"\nANSWER = {answer}\n")
        assert int(answer) == stack.load("shop").ANSWER


@pytest.mark.filterwarnings("error")  # celery.exceptions.DuplicateTaskNameWarning
def test_a_load_leaves_no_task_to_the_next_one(stack: Stack, shop_directory: Path) -> None:
    stack.load("shop").app.finalize()
    (shop_directory / "shop.py").write_text(SHOP.replace("return a + b", "return a * b"))
    shop = stack.load("shop")
    shop.app.finalize()
    assert shop.app.tasks["shop.add"](3, 4) == 12


def test_a_shared_task_belongs_to_the_file(stack: Stack, shop_directory: Path) -> None:
    with (shop_directory / "shop.py").open("a") as file:
        file.write("\nfrom celery import shared_task\n")
        file.write("\n\n@shared_task\ndef double(n):\n    return 2 * n\n")
    stack.start_worker("--concurrency=1")
    assert stack.load("shop").double.delay(2).get(timeout=10) == 4


def test_running_the_cell_again_replaces_the_stack(shop_directory: Path) -> None:
    pid = Stack(shop_directory).start_worker("--concurrency=1").pid  # nobody keeps this stack
    with Stack(shop_directory) as second:
        assert not psutil.pid_exists(pid)
        assert second.processes() == ["redis"]


def test_closed_is_closed(shop_directory: Path) -> None:
    stack = Stack(str(shop_directory))
    shop = stack.load("shop")
    stack.close()
    stack.close()
    uses = [stack.start_worker, stack.settle, lambda: stack.load("shop")]
    for use in [*uses, lambda: shop.add.delay(1, 1)]:
        with pytest.raises(StackError, match="run the cell that makes it again"):
            use()
    assert repr(stack) == "Stack stack · closed"
    assert not (shop_directory / ".stack").exists()


def test_close_puts_back_what_a_load_replaced(shop_directory: Path) -> None:
    before = _state.get_current_app()
    with Stack(shop_directory, name="outer") as outer:
        first = outer.load("shop")
        with Stack(shop_directory, name="inner") as inner:
            second = inner.load("shop")
            inner.load("shop")
            assert sys.modules["shop"] is not second
        assert sys.modules["shop"] is first and _state.get_current_app() is first.app
    assert "shop" not in sys.modules and _state.get_current_app() is before


def test_a_server_of_the_same_name_replaces_the_earlier_one(stack: Stack) -> None:
    first = stack.start_server("cache", {"maxmemory": "5mb"})
    second = stack.start_server("cache")
    assert not first.alive and second.client().ping()
    assert stack.processes() == ["redis", "cache"]
    with pytest.raises(StackError, match="choose another name"):
        stack.start_server("redis")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "./.."])
def test_a_name_that_leads_elsewhere(stack: Stack, shop_directory: Path, name: str) -> None:
    with pytest.raises(StackError, match="is no name"):
        Stack(shop_directory, name=name)
    with pytest.raises(StackError, match="is no name"):
        stack.start_server(name)
    assert (shop_directory / "shop.py").exists()


def test_close_does_not_wait_for_results(shop_directory: Path) -> None:
    stack = Stack(shop_directory)
    shop = stack.load("shop")
    results = [shop.add.delay(1, 1) for _ in range(5)]
    begin = time.monotonic()
    stack.close()
    del results
    assert time.monotonic() - begin < 5  # against 19 s for one blocked deletion


# --- kill, pause, restart -------------------------------------------------------------------------


def test_pause_and_resume(stack: Stack) -> None:
    stack.redis.pause()
    with pytest.raises(redis.TimeoutError):
        stack.redis.client(socket_timeout=0.3, retry=None).ping()
    stack.redis.resume()
    assert stack.redis.client().ping()


def test_stop_lets_the_running_task_finish(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    shop.nap.delay(1)
    stack.wait_until(lambda: stack.ledger.of("started"), "started")
    worker.stop()
    assert worker.exit_code == 0
    assert stack.settle().counts == {"done": 1}


# --- every fate, live -----------------------------------------------------------------------------


def test_a_lost_child_is_reported_and_the_worker_lives(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    order = stack.load("shop").nap.delay(60)
    stack.wait_for("started", order)
    stack.wait_for("acknowledged", order)
    worker.kill_child()
    stack.wait_for("failed", order, timeout=20)  # the pool looks after its children every 5 s
    assert worker.alive
    assert stack.settle(timeout=5).counts == {"failed": 1}
    assert stack.deliveries()["end"].tolist() == ["failed"]
    assert [fault.label for fault in worker.faults] == ["SIGKILL to a child of worker1"]


def test_a_killed_worker_on_the_timeline(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    orders = [shop.nap.delay(60) for _ in range(2)]
    stack.wait_for("started", orders[0])
    stack.wait_for("received", orders[1])
    worker.kill()
    table = stack.deliveries()
    assert table["end"].tolist() == ["killed", ""]
    assert table["worker"].tolist() == ["worker1", "worker1"]
    assert [label for label, _ in table.attrs["marks"]] == ["SIGKILL to worker1"]
    with pytest.raises(StackError, match="no such pool child"):
        worker.kill_child()


def test_a_restart_and_a_worker_that_exits_by_itself_on_the_timeline(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    order = stack.load("shop").add.delay(1, 1)
    stack.wait_for("finished", order)
    with down(stack.redis):
        pass
    os.kill(worker.pid, signal.SIGTERM)  # by nobody of ours
    stack.wait_until(lambda: not worker.alive, "ended")
    told = stack.deliveries().attrs
    labels = [label for label, _ in told["marks"]]
    assert labels == ["SIGKILL to redis", "redis is back", "worker1 exits with code 0"]
    [(label, begin, end)] = told["outages"]
    assert label == "redis is away" and 0 < begin < end < told["marks"][-1][1]
    assert [fault.label for fault in worker.faults] == []


def test_a_cold_shutdown_ends_the_running_task(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    order = stack.load("shop").nap.delay(60)
    stack.wait_for("started", order)
    stack.wait_for("acknowledged", order)  # before it, the worker would wait for the task
    worker.stop(signal.SIGQUIT)
    assert not worker.alive and order.state == "RETRY"
    assert stack.settle(timeout=5).counts == {"lost": 1}
    assert stack.deliveries()["end"].tolist() == ["killed"]


def test_a_moment_that_does_not_come(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    with pytest.raises(StackError, match=r"(?s)not finished within \d\.\d s.*worker1:.*nap"):
        stack.wait_for("finished", shop.nap.delay(60), timeout=0.2)
    with pytest.raises(StackError, match=r"still runs after 0\.1 s"):
        worker.wait(timeout=0.1)


def test_a_condition_that_comes_true_and_one_that_does_not(stack: Stack) -> None:
    looks = iter([False, False, True])
    stack.wait_until(lambda: next(looks), "looked at three times")
    assert list(looks) == []
    stack.start_worker("--concurrency=1")
    missed = r"(?s)^stack: not charged within 0\.\d s\. No task went to the broker.*worker1:.*ready"
    with pytest.raises(StackError, match=missed):
        stack.wait_until(lambda: False, "charged", timeout=0.1)


def test_a_long_wait_says_what_it_waits_for(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def display(bundle: dict[str, str], **_: object) -> SimpleNamespace:
        shown.append(bundle["text/plain"])
        return SimpleNamespace(update=display)

    monkeypatch.setattr(status, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(status, "display", display)
    monkeypatch.setattr(status, "_SILENT", 0)
    stack.wait_until(lambda: True, "charged", timeout=2)
    with pytest.raises(StackError):
        stack.wait_until(lambda: False, "charged", timeout=0)
    assert shown[0].startswith("waiting · ") and shown[0].endswith(" 0 of 2 s · until charged")
    assert shown[1] == "waited 0 s · until charged" and shown[-1] == "waited 0 s · not charged"


# --- bad input ------------------------------------------------------------------------------------


def test_a_file_that_does_not_import_shows_its_traceback(
    stack: Stack, shop_directory: Path
) -> None:
    (shop_directory / "shop.py").write_text(
        "from celery import Celery\napp = Celery('shop')\n1 / 0\n"
    )
    with pytest.raises(StackError, match="ZeroDivisionError"):
        stack.start_worker("--concurrency=1")
    with pytest.raises(ZeroDivisionError):
        stack.load("shop")
    assert stack.processes() == ["redis"]


def test_a_file_without_an_application(stack: Stack, shop_directory: Path) -> None:
    (shop_directory / "shop.py").write_text("x = 1\n")
    with pytest.raises(StackError, match="has no application"):
        stack.load("shop")
    with pytest.raises(StackError, match=r"no typo.py.* which has: shop.py"):
        stack.load("typo")


def test_which_application(stack: Stack, shop_directory: Path) -> None:
    (shop_directory / "mail.py").write_text("x = 1\n")
    with pytest.raises(StackError, match=r"mail.py, shop.py"):
        stack.start_worker()
    stack.start_worker("--concurrency=1", app="shop")


def test_a_worker_that_dies_at_start(stack: Stack) -> None:
    with pytest.raises(StackError, match="No such option"):
        stack.start_worker("--no-such-option")


def test_a_read_only_temporary_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reaper.tempfile, "mkdtemp", refuse)
    with pytest.raises(StackError, match="export TMPDIR="):
        private_directory()


def test_a_full_temporary_directory(shop_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reaper, "check_writable", full)
    with pytest.raises(StackError, match=r"No space left on device.*export TMPDIR="):
        Stack(shop_directory)
    with pytest.raises(StackError, match=r"No space left on device.*export TMPDIR="):
        private_directory()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "small disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("not run: only root can mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("not run: this machine does not let root mount a disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", 0) as file:
        while True:
            file.write(bytes(1 << 12))


def test_a_disk_that_is_full_at_the_start(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(StackError, match=r"No space left on device.*export TMPDIR="):
        Stack(small_disk)


def test_a_disk_that_fills_up_is_no_loss(small_disk: Path) -> None:
    (small_disk / "shop.py").write_text(SHOP)
    with Stack(small_disk) as stack:
        shop = stack.load("shop")
        shop.add.delay(1, 1)
        fill(small_disk)
        with pytest.raises(StackError, match="nothing can be counted"):
            for _ in range(100):
                shop.add.delay(1, 1)
        with pytest.raises(StackError, match="nothing can be counted"):
            stack.settle()


# --- nothing is left behind -----------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from helpers import Stack, private_directory
here = private_directory()
(here / "shop.py").write_text(Path(sys.argv[1]).read_text())
stack = Stack(here)
stack.start_worker("--concurrency=2")
print(here, flush=True)
if sys.argv[2] == "raise":
    raise RuntimeError("half-way")
time.sleep(60)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, "raise"])
def test_no_process_and_no_file_outlives_its_owner(
    shop_directory: Path, tmp_path: Path, end: signal.Signals | str
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLDER, shop_directory / "shop.py", str(end)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert owner.stdout is not None
    here = Path(owner.stdout.readline().strip())
    assert here.name.startswith("where-did-my-task-go-")
    if end != "raise":
        assert len(processes_in(here)) >= 4  # the server, the worker, two children
        owner.send_signal(end)
    owner.wait(timeout=10)
    assert wait_until_gone(here) == []
    deadline = time.monotonic() + 5
    while here.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not here.exists()


def test_an_exception_half_way_through_the_start(
    shop_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(redis_server.RedisServer, "_wait_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Stack(shop_directory)
    assert wait_until_gone(shop_directory) == []
    assert not (shop_directory / ".stack").exists()


def test_interrupt_reaches_this_process_and_not_the_server(stack: Stack) -> None:
    stack.start_worker("--concurrency=1")
    assert os.getpgid(stack.redis.pid) == stack.redis.pid != os.getpgid(0)
    assert os.getpgid(stack.workers[0].pid) == stack.workers[0].pid
    for child in stack.workers[0].children():
        assert os.getpgid(child) == stack.workers[0].pid


def test_a_relative_directory(shop_directory: Path) -> None:
    os.chdir(shop_directory)
    with Stack(".", backend=None) as stack:
        stack.load("shop").add.delay(1, 1)
        stack.start_worker("--concurrency=1")
        assert stack.settle().counts == {"done": 1}
