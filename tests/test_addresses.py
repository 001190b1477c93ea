"""Nothing goes to a broker of somebody else, wherever its URL stands."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers import Stack
from helpers.addresses import VARIABLES, check_backend, check_broker
from helpers.errors import AnotherBroker, StackError
from tests.conftest import processes_in

READ_RIGHT = [
    "redis://:secret@127.0.0.1:1234/0",
    "rediss://host:1/0?ssl_cert_reqs=required",
    "redis+socket:///run/redis.sock",
    "sentinel://:secret@host:1/0;sentinel://:secret@host:2/0",
    "amqp://user:secret@host/shop",
    "filesystem://",
    "sqla+sqlite:////tmp/shop.db",
    "sqla+postgresql://user:secret@host/shop",
]
MISREAD = {
    "redis+cluster://:secret@host:7000/0": "does not see the host",
    "redis+sentinel://:secret@host:7000/0": "does not see the host",
    "redis+rediss://:secret@host:7000/0": "does not see the host",
    "amqp+redis://:secret@host:7000/0": "does not see the host",
    "redis://host:1/0;redis+cluster://host:2/0": "does not see the host",
    "reddis://:secret@host:7000/0": "No such transport: reddis",
    "rediscluster://host:7000": "No such transport",
    "valkey://host:7000": "No such transport",
    "redis://host:port/0": "cannot use",
    "redis:secret@host:7000": "no URL",
    "localhost": "no URL",
    "": "no URL",
}


@pytest.mark.parametrize("url", READ_RIGHT)
def test_a_broker_that_kombu_reads_right(url: str) -> None:
    check_broker(url)


@pytest.mark.parametrize("url", MISREAD)
def test_a_broker_that_kombu_misreads(url: str) -> None:
    with pytest.raises(StackError, match=MISREAD[url]) as caught:
        check_broker(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["cache+memory://", "rpc://", "redis://:secret@host:1/0"])
def test_a_place_for_results(url: str) -> None:
    check_backend(url)


@pytest.mark.parametrize(
    "url", ["redis+cluster://:secret@host:1/0", "reddis://host:1/0", "nowhere", "rediss://host:1/0"]
)
def test_results_nowhere_start_nothing(shop_directory: Path, url: str) -> None:
    with pytest.raises(StackError, match=r"cannot keep results|misreads") as caught:
        Stack(shop_directory, backend=url)
    assert "secret" not in str(caught.value)
    assert not (shop_directory / ".stack").exists()


def test_a_broker_object_with_a_misread_url(shop_directory: Path) -> None:
    def cluster(_: Path) -> Any:
        return SimpleNamespace(broker_url="redis+cluster://host:7000/0", processes=[])

    with pytest.raises(StackError, match="does not see the host"):
        Stack(shop_directory, broker=cluster, backend=None)
    assert processes_in(shop_directory) == []


@pytest.fixture
def stranger() -> Iterator[tuple[int, list[Any]]]:
    """A server of somebody else: its port, and who came."""
    came: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                came.append(address)
                connection.close()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1], came
        server.shutdown(socket.SHUT_RDWR)


PLACES = [
    'app = Celery("shop", broker="{url}")',
    'app = Celery("shop", broker="{url}", backend="{url}")',
    'app = Celery("shop")\napp.conf.broker_url = "{url}"',
    'app = Celery("shop")\napp.conf.broker_read_url = app.conf.broker_write_url = "{url}"',
    'app = Celery("shop")\nother = Celery("other", broker="{url}", set_as_current=False)',
]


@pytest.mark.parametrize("place", PLACES)
def test_no_place_of_an_application_is_followed(
    stack: Stack, stranger: tuple[int, list[Any]], place: str
) -> None:
    port, came = stranger
    source = "from celery import Celery\n" + place.format(url=f"redis://127.0.0.1:{port}/0")
    source += '\n@app.task(name="add")\ndef add(a, b):\n    return a + b\n'
    (stack.directory / "shop.py").write_text(source)
    stack.start_worker("--concurrency=1")
    with pytest.warns(AnotherBroker, match="points at a broker of its own"):
        shop = stack.load("shop")
    assert shop.add.delay(1, 2).get(timeout=10) == 3
    getattr(shop, "other", shop.app).send_task("add", (1, 2))
    assert stack.settle().counts == {"done": 2}
    assert came == []


def test_no_variable_of_the_notebook_is_followed(
    shop_directory: Path, stranger: tuple[int, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, came = stranger
    names = (*VARIABLES, "CELERY_RESULT_BACKEND")
    for name in names:
        monkeypatch.setenv(name, f"redis://127.0.0.1:{port}/0")
    with pytest.warns(UserWarning, match="removed it"):
        stack = Stack(shop_directory)
    with stack:
        assert not set(names) & set(os.environ)
        stack.start_worker("--concurrency=1")
        assert stack.load("shop").add.delay(1, 2).get(timeout=10) == 3
    assert came == []
