"""What the witness writes where Celery and kombu send no signal."""

import subprocess
import sys
from pathlib import Path

import pytest
from celery.utils.dispatch import Signal

from helpers import Stack
from helpers.errors import StackError
from helpers.ledger import Ledger, read
from helpers.witness import _shortcut

# In a process of its own: the witness changes the transport of whoever imports it.
RETURN = """
import json, sys
import redis
from celery import Celery
from helpers.ledger import Ledger
from helpers.witness import _watch_returns

url, ledger, what = sys.argv[1:]
_watch_returns(Ledger(ledger))
app = Celery(broker=url)
with app.connection_for_read() as connection:
    channel = connection.default_channel
    client = channel.client
    message = {"headers": {"id": "a"}, "body": "", "properties": {"delivery_info": {}}}
    app.amqp.queues["celery"](channel).declare()
    client.hset("unacked", "tag", json.dumps([message, "celery", "celery"]))
    client.zadd("unacked_index", {"tag": 1.0})
    lookup, tries = channel._lookup, []

    def meanwhile(*arguments):
        # Somebody else changes `unacked` between the WATCH and the EXEC of the first attempt.
        tries.append(1)
        if what in ("changed", "taken") and len(tries) == 1:
            other = redis.Redis.from_url(url)
            other.hset("unacked", "other", "x")
            if what == "taken":
                other.hdel("unacked", "tag")
        return lookup(*arguments)

    channel._lookup = meanwhile
    if what == "full":
        client.config_set("maxmemory", 1)
    try:
        channel.qos.restore_by_tag("tag", leftmost=what == "requeued")
    except redis.RedisError:
        pass
    print(client.llen("celery"))
"""


@pytest.mark.parametrize(
    ("what", "returned"),
    [("quiet", 1), ("requeued", 1), ("changed", 1), ("taken", 0), ("full", 0)],
)
def test_a_return_is_written_once_and_only_if_it_happened(
    stack: Stack, tmp_path: Path, what: str, returned: int
) -> None:
    path = tmp_path / "returns.jsonl"
    Ledger(path).close()
    done = subprocess.run(
        [sys.executable, "-c", RETURN, stack.redis.url(0), str(path), what],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == [str(returned)], done.stderr
    events = [(event["event"], event["id"], event["requeued"]) for event in read(path)]
    assert events == [("restored", "a", what == "requeued")] * returned
    assert all(event["moved_at"] <= event["at"] for event in read(path))


AMQP = """
from celery import Celery
from celery.app.amqp import AMQP

class Own(AMQP):
    def as_task_v2(self, *arguments, **options):
        message = super().as_task_v2(*arguments, **options)
        message.headers["shop"] = "ours"
        return message

app = Celery("own", amqp=Own)

@app.task(bind=True)
def ask(self):
    return self.request.headers and self.request.headers.get("shop") or self.request.shop
"""


def test_an_application_keeps_its_own_amqp(stack: Stack, shop_directory: Path) -> None:
    (shop_directory / "own.py").write_text(AMQP)
    stack.start_worker("--concurrency=1", app="own")
    result = stack.load("own").ask.delay()
    assert result.get(timeout=10) == "ours"
    assert stack.settle().counts == {"done": 1}


def test_a_worker_keeps_the_queues_of_its_command_line(stack: Stack) -> None:
    stack.start_worker("--concurrency=1", "--queues=parcels,letters")
    [ready] = stack.ledger.of("ready")
    assert ready["queues"] == ["letters", "parcels"]


@pytest.mark.parametrize(
    "option", [["--include=more"], ["--include", "more"], ["-I", "more"], ["-Imore"], ["-EImore"]]
)
def test_what_a_user_includes_does_not_replace_it(
    stack: Stack, shop_directory: Path, option: list[str]
) -> None:
    (shop_directory / "more.py").write_text(
        "from shop import app\n\n@app.task\ndef more():\n    return 3\n"
    )
    stack.start_worker("--concurrency=1", *option, app="shop")
    more = stack.load("shop").app.send_task("more.more")
    assert more.get(timeout=10) == 3


def test_a_worker_is_ready_whatever_it_logs(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1", "--loglevel=WARNING")
    assert "ready." not in worker.log.text
    assert stack.load("shop").add.delay(1, 1).get(timeout=10) == 2


LISTENS = """
from celery import Celery, signals
from celery.utils.log import get_task_logger

app = Celery("listens")
logger = get_task_logger("listens")


def heard(signal, **_):
    logger.warning("heard %s", signal.name)
    if app.conf.fails:
        raise ValueError("of the application")


for signal in (signals.task_received, signals.task_prerun, signals.task_postrun):
    signal.connect(heard)


@app.task
def work():
    pass
"""


@pytest.mark.parametrize("fails", [False, True])
def test_an_application_hears_its_own_signals_too(
    stack: Stack, shop_directory: Path, fails: bool
) -> None:
    (shop_directory / "listens.py").write_text(f"{LISTENS}\napp.conf.fails = {fails}\n")
    worker = stack.start_worker("--concurrency=1", app="listens")
    stack.load("listens").work.delay()
    assert stack.settle().counts == {"done": 1}
    heard = [f"heard task_{event}" for event in ("received", "prerun", "postrun")]
    assert [worker.log.text.count(line) for line in heard] == [1, 1, 1]


def test_a_ledger_that_takes_no_line_harms_no_task(caplog: pytest.LogCaptureFixture) -> None:
    signal = Signal(name="full")

    @signal.connect(weak=False)
    def full(**_: object) -> None:
        raise StackError("the ledger takes no line")

    assert _shortcut(signal, full)(sender=None) == []
    assert "takes no line" in caplog.text
