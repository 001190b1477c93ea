"""A second broker, for tests: kombu's `filesystem://`, which has no server and no `unacked`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kombu

from helpers.errors import BrokerSilent
from helpers.fates import Unacked
from helpers.process import Process


class Filesystem:
    """A folder of messages, one file each: `<time>_<uuid>.<queue>.msg`."""

    name = "filesystem"
    version = f"filesystem of kombu {kombu.__version__}"
    broker_url = "filesystem://"

    def __init__(self, home: Path) -> None:
        self._messages = home / "messages"
        self._messages.mkdir()
        self.broker_transport_options: dict[str, Any] = {
            "data_folder_in": str(self._messages),
            "data_folder_out": str(self._messages),
            "control_folder": str(home / "control"),
        }
        self.processes: list[Process] = []

    def learn(self, transport_options: Mapping[str, Any]) -> None:
        """Its names are its own."""

    def queued(self) -> dict[str, list[str]]:
        """A worker moves a file out before it reads it, so what is there waits."""
        found: dict[str, list[str]] = {}
        try:
            for file in sorted(self._messages.iterdir()):
                _, _, queue = file.name.removesuffix(".msg").partition(".")
                found.setdefault(queue, []).append(json.loads(file.read_text())["headers"]["id"])
        except FileNotFoundError as error:
            raise BrokerSilent(f"{self._messages.name} is not there: {error}") from error
        return found

    def unacked(self) -> list[Unacked]:
        """None: what a worker took is in its memory only."""
        return []
