"""A third broker, for tests: a Redis with a replica, and a sentinel that replaces it when it dies.

It teaches the stack nothing: what is queued and unacked is asked of the server that is the master
at that moment.
"""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import redis

from helpers.brokers.redis import RedisServer
from helpers.errors import BrokerSilent
from helpers.fates import Unacked
from helpers.process import Process

GROUP = "shop"
DOWN_AFTER = 1.0  # seconds without an answer, until the replica takes over


class Watcher(RedisServer):
    """The same program as a server, in another role."""

    def _command_line(self, config: Path) -> list[str]:
        return [*super()._command_line(config), "--sentinel"]


def _copies(server: RedisServer) -> bool:
    with server.client() as client:
        return bool(client.info("replication")["master_link_status"] == "up")


class Sentinel:
    """One master, one replica, one sentinel."""

    name = "redis"

    def __init__(self, home: Path) -> None:
        self._home, self._password = home, secrets.token_urlsafe(18)
        self.processes: Sequence[Process] = []
        try:
            self._start()
        except BaseException:
            for process in self.processes:
                process.kill()
            raise

    def _start(self) -> None:
        config = {"masterauth": self._password, "repl-diskless-sync-delay": "0"}
        first = self._server(RedisServer, "redis-a", config)
        copied = {**config, "replicaof": f"127.0.0.1 {first.port}"}
        second = self._server(RedisServer, "redis-b", copied)
        second.wait_until(lambda: _copies(second), "a replica", timeout=20)
        self.servers = [first, second]
        self.sentinel = self._server(
            Watcher,
            "sentinel",
            {
                f"sentinel monitor {GROUP}": f"127.0.0.1 {first.port} 1",
                f"sentinel auth-pass {GROUP}": self._password,
                f"sentinel down-after-milliseconds {GROUP}": f"{DOWN_AFTER * 1000:.0f}",
                f"sentinel failover-timeout {GROUP}": "3000",
            },
        )
        # It promotes only a replica that it has seen in order.
        self.sentinel.wait_until(self._complete, "watching the replica", timeout=20)
        self.version = f"{first.version} with Sentinel"

    def _server(self, kind: type[RedisServer], name: str, config: dict[str, str]) -> RedisServer:
        home = self._home / name
        home.mkdir(mode=0o700)
        server = kind(home, config, name, password=self._password)
        self.processes = [*self.processes, server]
        return server

    def _complete(self) -> bool:
        with self.sentinel.client() as client:
            known = client.sentinel_slaves(GROUP)
        return [row["master-link-status"] for row in known] == ["ok"]

    @property
    def master(self) -> RedisServer:
        """The server that the sentinel names now. Raises BrokerSilent when it does not answer."""
        try:
            with self.sentinel.client(socket_timeout=2) as sentinel:
                _, port = sentinel.sentinel_get_master_addr_by_name(GROUP)
        except redis.RedisError as error:
            raise BrokerSilent(f"the sentinel does not answer: {error}") from error
        return next(server for server in self.servers if server.port == int(port))

    @property
    def broker_url(self) -> str:
        """The sentinel's: who the master is, kombu asks it."""
        return f"sentinel://:{self._password}@127.0.0.1:{self.sentinel.port}/0"

    @property
    def broker_transport_options(self) -> Mapping[str, Any]:
        """The password in the URL is the servers': the sentinel has its own place for it."""
        return {"master_name": GROUP, "sentinel_kwargs": {"password": self._password}}

    def learn(self, transport_options: Mapping[str, Any]) -> None:
        """Either server may be asked."""
        for server in self.servers:
            server.learn(transport_options)

    def queued(self) -> Mapping[str, Sequence[str | None]]:
        """Of the present master."""
        return self.master.queued()

    def unacked(self) -> Sequence[Unacked]:
        """Of the present master."""
        return self.master.unacked()
