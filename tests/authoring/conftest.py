"""A machine with a name and a user that no page may show."""

import socket

import pytest


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "boxwood")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
