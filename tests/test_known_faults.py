"""What a page rests on: the table of releases, and the question that it asks the installed one."""

import celery
import pytest
from celery.worker.consumer import consumer
from kombu.transport.redis import Channel

from helpers import Stack
from helpers.known_faults import EXITS_ON_RESTART, exits_on_restart


@pytest.fixture(autouse=True)
def fresh() -> None:
    exits_on_restart.cache_clear()


def test_the_installed_release_is_in_the_table() -> None:
    """A release that is new needs a line: see what a worker of it does, then add what you saw."""
    assert EXITS_ON_RESTART[celery.__version__] is exits_on_restart()


@pytest.mark.skipif(not EXITS_ON_RESTART.get(celery.__version__), reason="it has not the fault")
def test_a_patched_release_answers_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    ignore, parameters = consumer.ignore_errors, Channel._connparams

    def close_quietly(connection, close):  # type: ignore[no-untyped-def]
        try:
            return ignore(connection, close)
        except AttributeError:
            return None

    monkeypatch.setattr(consumer, "ignore_errors", close_quietly)
    assert exits_on_restart() is False
    monkeypatch.undo()
    exits_on_restart.cache_clear()
    assert exits_on_restart() is True
    assert Channel._connparams is parameters


def test_asking_leaves_nothing_behind(stack: Stack) -> None:
    exits_on_restart()
    assert stack.alive and [name for name in Stack._open if name == "known faults"] == []
