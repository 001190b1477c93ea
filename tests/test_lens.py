"""The lens: on fakeredis where it is faithful, on a real server for the rest."""

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import fakeredis
import pytest
import redis

from helpers import Stack, lens, wire
from helpers.faults import down


class FakeServer:
    """Looks like RedisServer to the lens."""

    def __init__(self) -> None:
        self._server = fakeredis.FakeServer()

    @contextmanager
    def client(self, db: int = 0, **_: Any) -> Iterator[redis.Redis]:
        yield fakeredis.FakeRedis(server=self._server, db=db, decode_responses=True)


def message(task_id: str, task: str = "shop.add") -> dict[str, Any]:
    headers = {"id": task_id, "task": task, "retries": 0}
    body = "W1sxLCAyXSwge30sIHt9XQ=="  # [[1, 2], {}, {}]
    return {"body": body, "headers": headers, "properties": {"body_encoding": "base64"}}


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


def test_depth_counts_each_priority_list(fake: FakeServer) -> None:
    with fake.client() as client:
        for number in range(3):
            client.lpush("celery", json.dumps(message(f"a{number}")))
        client.lpush("celery\x06\x163", json.dumps(message("b")))
        client.lpush("somebody's list", "no message", "1")
    assert lens.depth(fake).to_numpy().tolist() == [["celery", 0, 3], ["celery", 3, 1]]
    assert lens.depth(fake, db=1).empty


def test_the_next_message_comes_first_and_decodes(fake: FakeServer) -> None:
    with fake.client() as client:
        for task_id in ("first", "second"):
            client.lpush("celery", json.dumps(message(task_id)))
        waiting = lens.messages(fake)["celery"]
        taken = json.loads(client.rpop("celery"))
    assert [m["headers"]["id"] for m in waiting] == ["first", "second"]
    assert taken["headers"]["id"] == "first"
    assert lens.decode(waiting[0])["body"] == [[1, 2], {}, {}]


def test_unacked_with_age_and_without_index(fake: FakeServer) -> None:
    with fake.client() as client:
        for tag in ("one", "two"):
            client.hset("unacked", tag, json.dumps([message(tag), "", "celery"]))
        client.zadd("unacked_index", {"one": time.time() - 5})
    table = lens.unacked(fake).set_index("tag")
    assert table.loc["one", ["id", "task", "queue"]].tolist() == ["one", "shop.add", "celery"]
    assert table.loc["one", "age"] == pytest.approx(5, abs=1)
    assert table.loc[["two"], "since"].isna().all()


def test_unacked_foreign_beside_a_task_has_no_id(fake: FakeServer) -> None:
    with fake.client() as client:
        for tag, own in {
            "task": message("one"),
            "foreign": {"body": "e30=", "headers": {}},
        }.items():
            own.setdefault("properties", {})
            client.hset("unacked", tag, json.dumps([own, "", "celery"]))
    ids = dict(lens.unacked(fake)[["tag", "id"]].itertuples(index=False))
    assert ids == {"task": "one", "foreign": None}


def anything(chance: random.Random, depth: int = 0) -> Any:
    """What JSON can hold, often in the shape of a message."""
    plain = chance.choice([None, True, 7, -0.5, "", "text", "\ud83d", "e30="])
    if depth > 3 or chance.random() < 0.3:
        return plain
    if chance.random() < 0.4:
        return [anything(chance, depth + 1) for _ in range(chance.randrange(4))]
    names = ["body", "headers", "properties", "id", "task", "body_encoding", "compression", "x"]
    return {name: anything(chance, depth + 1) for name in chance.sample(names, chance.randrange(8))}


@pytest.mark.parametrize("seed", range(200))
def test_nothing_of_somebody_else_hides_a_task(fake: FakeServer, seed: int) -> None:
    chance = random.Random(seed)
    found = [json.dumps(anything(chance)) for _ in range(5)]
    held = [json.dumps([anything(chance), "", chance.choice(["celery", None])]) for _ in range(5)]
    cut = chance.choice(found)
    with fake.client() as client:
        client.lpush("celery", *found, cut[: len(cut) // 2], "", json.dumps(message("waits")))
        for number, raw in enumerate([*held, *found, "", json.dumps([message("held"), "", "q"])]):
            client.hset("unacked", str(number), raw)
    waiting = {lens.task_of(m)[0] for own in lens.messages(fake).values() for m in own}
    assert "waits" in waiting
    assert "held" in set(lens.unacked(fake)["id"])


def test_compare_says_what_is_gone(stack: Stack) -> None:
    client = stack.redis.client()
    client.lpush("celery", "x")
    client.set("page:1", "x" * 1000, ex=60)
    before = lens.keys(stack.redis)
    client.delete("celery")
    table = lens.compare(before, lens.keys(stack.redis))
    assert table["now"].to_dict() == {"celery": "gone", "page:1": "kept"}
    assert before.loc["page:1", "bytes"] > 1000
    assert before.loc["page:1", "expires_in"] == pytest.approx(60, abs=2)
    assert before.loc["celery", "type"] == "list"


LOOKS: list[Callable[[Stack], object]] = [
    lambda stack: lens.keys(stack.redis),
    lambda stack: _watch_for(stack, 0.3),
]


def _watch_for(stack: Stack, seconds: float) -> lens.Watch:
    with lens.watch(stack.redis) as watching:
        time.sleep(seconds)
    return watching


@pytest.mark.parametrize("look", LOOKS, ids=["keys", "watch"])
def test_looking_leaves_the_eviction_clock_alone(stack: Stack, look: Callable) -> None:
    client = stack.redis.client()
    stack.load("shop").add.delay(1, 1)
    deadline = time.monotonic() + 10
    while client.object("IDLETIME", "celery") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    look(stack)
    assert client.object("IDLETIME", "celery") >= 2
    client.llen("celery")  # the control: this one does not
    assert client.object("IDLETIME", "celery") < 2


def test_no_lens_writes(stack: Stack) -> None:
    stack.load("shop").add.delay(1, 1)
    before = stack.redis.client().info("persistence")["rdb_changes_since_last_save"]
    for look in (lens.keys, lens.depth, lens.messages, lens.unacked):
        look(stack.redis)
    _watch_for(stack, 0.2)
    assert stack.redis.client().info("persistence")["rdb_changes_since_last_save"] == before


def test_watch_records_memory_and_faults(shop_directory: Path) -> None:
    with Stack(shop_directory, redis={"maxmemory": "20mb"}) as stack:
        stack.load("shop").add.delay(1, 1)
        with lens.watch(stack.redis) as watching:
            time.sleep(0.3)
            with watching.fault("cache fills"):
                stack.redis.client().set("page", "x" * 5_000_000)
            time.sleep(0.3)
        history = watching.history
    assert history.attrs["maxmemory"] == 20 * 1024 * 1024
    [(label, begin, end)] = history.attrs["faults"]
    assert label == "cache fills" and 0.2 < begin < end
    memory = history.set_index("seconds")["memory"]
    assert memory[end + 0.1 :].min() - memory[:begin].max() > 4_000_000
    assert (history["queue"] > 0).all()


def test_watch_goes_on_after_an_outage_which_is_a_band(shop_directory: Path) -> None:
    with Stack(shop_directory, redis={"appendonly": "yes"}) as stack:
        stack.load("shop").add.delay(1, 1)
        with lens.watch(stack.redis) as watching:
            time.sleep(0.3)
            with watching.fault("redis is away"), down(stack.redis):
                time.sleep(0.5)
            time.sleep(0.3)
        history = watching.history
    [(label, begin, end)] = history.attrs["faults"]
    assert label == "redis is away" and end - begin > 0.5
    seconds = history["seconds"]
    assert (seconds < begin).any() and (seconds > end).any()
    assert not seconds.between(begin + 0.1, begin + 0.5).any()
    assert (history["queue"] > 0).all()


@pytest.mark.parametrize("backend", ["same", {}], ids=["one server", "two servers"])
def test_each_command_is_attributed(shop_directory: Path, backend: Any) -> None:
    with Stack(shop_directory, backend=backend) as stack:
        stack.start_worker("--concurrency=1")
        shop = stack.load("shop")
        with wire.record(stack) as recorded:
            result = shop.add.delay(1, 1)
            assert result.get(timeout=10) == 2
        table = recorded.table
    assert set(table["source"]) == {"producer", "worker", "result reader"}
    verbs = table[~table["command"].isin(["MULTI", "EXEC"])]
    seen = set(zip(verbs["source"], verbs["database"], verbs["command"], strict=True))
    assert seen >= {
        ("producer", "broker", "LPUSH"),
        ("worker", "broker", "HSET"),
        ("worker", "broker", "HDEL"),
        ("worker", "result backend", "SETEX"),
        ("worker", "result backend", "PUBLISH"),
        ("result reader", "result backend", "SUBSCRIBE"),
    }
    order = verbs["command"].tolist()
    assert order.index("LPUSH") < order.index("HSET") < order.index("HDEL") < order.index("SETEX")
    for_the_task = table[table["cause"] == "task"]  # a timer may tick meanwhile
    assert (for_the_task["step"] != "").all(), for_the_task


def test_what_a_worker_does_by_the_clock_is_no_task(stack: Stack) -> None:
    stack.start_worker("--concurrency=1")
    with wire.record(stack) as recorded:
        time.sleep(2)  # the first timer of a worker runs a second after its start
    table = recorded.table
    assert set(table["source"]) == {"worker"}
    assert (table["cause"] == "timer").any()
    left = set(table.loc[table["cause"] == "task", "command"])
    assert left <= {"BRPOP", "PSUBSCRIBE"}  # it asks for work, and listens for remote control


def test_a_full_server_can_be_read(stack: Stack) -> None:
    stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    nap = shop.nap.delay(60)
    stack.wait_for("started", nap)
    waiting = shop.nap.apply_async((0,), queue="later")
    stack.redis.config_set("maxmemory", "100kb")
    assert list(lens.depth(stack.redis)["waiting"]) == [1]
    assert set(lens.unacked(stack.redis)["id"]) <= {nap.id}
    assert stack.settle(timeout=1).counts["queued"] == 1, waiting.id


CONNECT = """
import socket, sys
own = socket.socket()
own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
own.bind(("127.0.0.1", int(sys.argv[1])))
own.connect(("127.0.0.1", int(sys.argv[2])))
print("connected", flush=True)
sys.stdin.read()
"""


def test_one_port_can_lead_to_two_servers() -> None:
    """An old connection of this process is no command of a worker that has the same port."""
    with (
        socket.create_server(("127.0.0.1", 0)) as old,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket() as own,
    ):
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(("127.0.0.1", 0))
        own.connect(old.getsockname())
        port, place = own.getsockname()[1], server.getsockname()[1]
        command = [sys.executable, "-c", CONNECT, str(port), str(place)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
            assert worker.stdout and worker.stdout.readline() == b"connected\n"
            child = SimpleNamespace(pid=worker.pid, children=lambda: [], name="worker1")
            stack = cast(Stack, SimpleNamespace(workers=[child]))
            assert wire._owner_of_connection(stack, port, place) == "worker1"
            assert wire._owner_of_connection(stack, port, old.getsockname()[1]) == "this process"
            worker.communicate()
