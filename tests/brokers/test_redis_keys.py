"""What applications call their keys, and whose messages lie in them: nothing runs but a server."""

import base64
import json
import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis
from celery import Celery
from kombu.compression import compress

from helpers import Stack, lens
from helpers.brokers.redis import RedisServer
from helpers.brokers.redis_keys import KeyNames, of_key
from helpers.settle import census
from tests.test_lens import FakeServer, message


class Keyed(FakeServer):
    """A server of applications with these transport options."""

    def __init__(self, *options: dict[str, Any]) -> None:
        super().__init__()
        self.key_names = [KeyNames.of(option) for option in options]

    def put(self, key: str, *ids: str) -> None:
        with self.client() as client:
            for task_id in ids:
                client.lpush(key, json.dumps(message(task_id)))

    def hold(self, unacked: str, index: str, *tags: str) -> None:
        with self.client() as client:
            for tag in tags:
                client.hset(unacked, tag, json.dumps([message(tag), "", "celery"]))
                client.zadd(index, {tag: 1.0})


def queued(server: Any) -> dict[str, list[str | None]]:
    return RedisServer.queued(server)


COLON = {"sep": ":"}
STEPS = {"priority_steps": [0, 5]}
LISTS: list[tuple[dict[str, Any], str, str, int]] = [
    # options, key: queue, priority
    ({}, "celery", "celery", 0),
    ({}, "celery\x06\x163", "celery", 3),
    ({}, "celery\x06\x164", "celery\x06\x164", 0),  # no step
    ({}, "celery\x06\x160", "celery\x06\x160", 0),  # step 0 has no number
    ({}, "celery\x06\x1603", "celery\x06\x1603", 0),
    ({}, "celery:3", "celery:3", 0),
    (COLON, "celery:3", "celery", 3),
    (COLON, "shop:parcels", "shop:parcels", 0),
    (COLON, "shop:parcels:6", "shop:parcels", 6),
    (STEPS, "celery\x06\x165", "celery", 5),
    (STEPS, "celery\x06\x163", "celery\x06\x163", 0),
    ({"global_keyprefix": "shop:"}, "shop:celery\x06\x169", "celery", 9),
    ({"global_keyprefix": "shop:", **COLON}, "shop:celery:9", "celery", 9),
    ({"global_keyprefix": "{shop}*"}, "{shop}*celery", "celery", 0),
]


@pytest.mark.parametrize(("options", "key", "queue", "priority"), LISTS)
def test_a_list_is_read_as_its_queue(
    options: dict[str, Any], key: str, queue: str, priority: int
) -> None:
    server = Keyed(options)
    server.put(key, "a")
    assert lens.depth(server).to_numpy().tolist() == [[queue, priority, 1]]
    assert queued(server) == {options.get("global_keyprefix", "") + queue: ["a"]}


@pytest.mark.parametrize("prefix", ["", "shop:", "[shop]*"])
@pytest.mark.parametrize(
    ("bound", "queue"), [("parcels:3::parcels:3", "parcels:3"), ("a:^a\\..*$:b:3", "b:3")]
)
def test_a_queue_that_is_called_like_a_list_of_priorities(
    bound: str, queue: str, prefix: str
) -> None:
    server = Keyed({"global_keyprefix": prefix, **COLON})
    server.put(f"{prefix}parcels:3", "a")
    with server.client() as client:
        client.sadd(f"{prefix}_kombu.binding.parcels", bound)
    known = queue == "parcels:3"
    expected = ["parcels:3", 0, 1] if known else ["parcels", 3, 1]
    assert lens.depth(server).to_numpy().tolist() == [expected]


def test_the_longest_prefix_says_whose_a_list_is() -> None:
    server = Keyed({}, {"global_keyprefix": "shop:"}, {"global_keyprefix": "shop:new:"})
    for key in ("celery", "shop:celery", "shop:new:celery", "other:celery"):
        server.put(key, key)
    assert queued(server) == {
        key: [key] for key in ("celery", "other:celery", "shop:celery", "shop:new:celery")
    }
    assert lens.depth(server)["queue"].tolist() == ["celery", "other:celery", "celery", "celery"]


def test_a_stranger_beside_a_prefix_keeps_its_name() -> None:
    kinds = [KeyNames(prefix="shop:", sep=":")]
    assert of_key("celery:3", kinds, {}) == ("", "celery:3", 0)


def test_of_two_applications_one_may_know_the_step() -> None:
    kinds = [KeyNames(), KeyNames(sep=":")]
    assert of_key("celery:3", kinds, {}) == of_key("celery:3", kinds[::-1], {})
    assert of_key("celery:3", kinds, {}) == ("", "celery", 3)


OWN = {"unacked_key": "mine", "unacked_index_key": "mine_index", "unacked_mutex_key": "mine_lock"}


def test_unacked_under_the_names_of_each_application() -> None:
    server = Keyed({}, OWN, {"global_keyprefix": "shop:"}, {"global_keyprefix": "b:", **OWN})
    names = ["unacked", "mine", "shop:unacked", "b:mine"]
    for name in (*names, "strangers:unacked"):
        server.hold(name, f"{name}_index", name)
    held = lens.unacked(server)
    assert sorted(held["id"]) == sorted(names)
    assert held["since"].eq(1.0).all()


def test_applications_that_share_unacked_do_not_count_it_twice() -> None:
    server = Keyed({}, COLON, STEPS)
    server.hold("unacked", "unacked_index", "a", "b")
    assert len(lens.unacked(server)) == 2


# Shapes of messages.


def encoded(body: bytes, **more: Any) -> dict[str, Any]:
    """A message as the Redis transport writes it."""
    properties = {"body_encoding": "base64", **more.pop("properties", {})}
    raw = base64.b64encode(body).decode()
    return {"body": raw, "headers": {}, "properties": properties, **more}


CALL = {"id": "a", "task": "shop.add", "args": [1, 2], "kwargs": {}, "retries": 0}
JSON, PICKLE = json.dumps(CALL).encode(), pickle.dumps(CALL)
OURS = {"correlation_id": "a", "reply_to": "b"}
SQUEEZED, METHOD = compress(JSON, "gzip")
SHAPES: dict[str, tuple[dict[str, Any], tuple[str | None, str | None]]] = {
    "protocol 2": (message("a"), ("a", "shop.add")),
    "protocol 1": (encoded(JSON, properties=OURS), ("a", "shop.add")),
    "protocol 1, no base64": (
        {"body": JSON.decode(), "headers": None, "properties": {}},
        ("a", "shop.add"),
    ),
    "protocol 1, pickle": (encoded(PICKLE, properties=OURS), ("a", None)),
    "protocol 1, compressed": (
        encoded(SQUEEZED, headers={"compression": METHOD}, properties=OURS),
        ("a", "shop.add"),
    ),
    "protocol 1, headers of its own": (
        encoded(JSON, headers={"trace": "x"}, properties=OURS),
        ("a", "shop.add"),
    ),
    "said to be compressed": (encoded(b"no", headers={"compression": METHOD}), (None, None)),
    "an unknown compression": (encoded(JSON, headers={"compression": "?"}), (None, None)),
    "a result": (
        encoded(b'{"task_id": "a", "status": "SUCCESS"}', properties={"correlation_id": "a"}),
        (None, None),
    ),
    "a result, pickle": (encoded(PICKLE, properties={"correlation_id": "a"}), (None, None)),
    "a reply to remote control": (
        encoded(b'{"worker1": {"ok": "pong"}}', headers={"ticket": "t", "clock": 3}),
        (None, None),
    ),
    "a simple queue": (encoded(b'{"hello": 1}'), (None, None)),
    "its ids are numbers": (encoded(b'{"id": 1, "task": 2}'), (None, None)),
    "a list": (encoded(b"[1]"), (None, None)),
    "text": (encoded(b'"id and task"'), (None, None)),
    "no JSON": (encoded(b"\xff{"), (None, None)),
    "no base64": ({"body": "%", "headers": {}, "properties": OURS}, ("a", None)),
    "headers of text": ({"body": "1", "headers": "id task", "properties": {}}, (None, None)),
    "no properties": ({"body": "1", "headers": {}, "properties": None}, (None, None)),
    "no body": ({"body": None, "headers": {}, "properties": {}}, (None, None)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_whose_task_a_message_is(shape: str) -> None:
    raw, expected = SHAPES[shape]
    assert lens.task_of(raw) == expected
    server = Keyed({})
    with server.client() as client:
        client.lpush("celery", json.dumps(raw))
        client.hset("unacked", "tag", json.dumps([raw, "", "celery"]))
    assert queued(server) == {"celery": [expected[0]]}
    assert [entry.task_id for entry in RedisServer.unacked(server)] == [expected[0]]  # type: ignore[arg-type]


NO_MESSAGES = ["", "1", "null", "[]", "{", '"headers properties body"', "{}", '{"headers": {}}']


def test_lists_of_somebody_else_are_no_queues(stack: Stack) -> None:
    with redis.Redis.from_url(stack.redis.url(0)) as client:
        client.rpush("theirs", *NO_MESSAGES, b"\xff\xfe", pickle.dumps(CALL))
        client.rpush(b"\xff\xfename", b"\xff", json.dumps(message("theirs")))
        client.set("text", "x")
    stack.load("shop").add.delay(1, 1)
    seen = census(stack)
    assert seen is not None and seen.foreign == 0
    assert sorted(map(len, seen.queued.values())) == [1, 1]
    assert not lens.keys(stack.redis).empty


# What kombu and Celery write themselves.


@contextmanager
def application(stack: Stack, **settings: Any) -> Iterator[Celery]:
    app = Celery("other", broker=stack.redis.url(0), set_as_current=False)
    app.conf.update(settings)
    stack.redis.learn(app.conf.broker_transport_options)
    yield app
    app.close()


@pytest.mark.parametrize("serializer", ["json", "pickle", "yaml", "msgpack"])
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
@pytest.mark.parametrize("protocol", [1, 2])
def test_the_id_of_what_celery_writes(
    stack: Stack, protocol: int, compression: str | None, serializer: str
) -> None:
    options = {"global_keyprefix": "b:", "sep": "|"}
    with application(stack, task_protocol=protocol, broker_transport_options=options) as app:
        try:
            sent = app.send_task(
                "shop.add", (1, 1), priority=3, serializer=serializer, compression=compression
            )
        except kombu.exceptions.SerializerNotInstalled:
            pytest.skip(f"not run: no {serializer} here")
    assert stack.redis.queued() == {"b:celery": [sent.id]}


def test_foreign_messages_of_kombu_are_counted_apart(stack: Stack) -> None:
    with kombu.Connection(stack.redis.url(0)) as connection:
        for serializer in ("json", "pickle"):
            with connection.SimpleQueue(f"inbox-{serializer}", serializer=serializer) as inbox:
                inbox.put({"hello": 1})
    stack.load("shop").add.delay(1, 1)
    outcome = stack.settle(timeout=0.5, quiet=0.1)
    assert (outcome.counts, outcome.foreign) == ({"queued": 1}, 2)
    assert "messages of somebody else 2" in outcome.sentence


def test_a_thousand_held_and_a_thousand_queued_are_counted_at_once(
    stack: Stack, shop_directory: Path
) -> None:
    names = KeyNames(prefix="shop:")
    stack.redis.learn({"global_keyprefix": "shop:"})
    with stack.redis.client() as client:
        client.rpush("shop:celery", *(json.dumps(message(f"q{n}")) for n in range(1000)))
        held = {f"t{n}": json.dumps([message(f"h{n}"), "", "celery"]) for n in range(1000)}
        client.hset(names.key(names.unacked), mapping=held)
        client.zadd(names.key(names.index), dict.fromkeys(held, 1.0))
    took = []
    for _ in range(5):
        start = time.process_time()  # of ours alone: others work on this machine too
        seen = census(stack)
        took.append(time.process_time() - start)
    assert seen is not None
    assert (len(seen.unacked), len(seen.queued["shop:celery"])) == (1000, 1000)
    assert min(took) < 0.2, took
