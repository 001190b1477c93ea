"""Where a broker and its results are: Celery's places for it, and what kombu makes of a URL."""

import os
import warnings
from urllib.parse import urlsplit

import kombu
from celery import Celery

from helpers.errors import StackError

SETTINGS = ("broker_url", "broker_read_url", "broker_write_url")
# Celery reads these lazily, and they beat `conf.broker_url`.
VARIABLES = tuple(f"CELERY_{setting.upper()}" for setting in SETTINGS)
BACKEND = "CELERY_RESULT_BACKEND"


def forget_addresses() -> None:
    """An address in this process would send the notebook's tasks to somebody's real broker."""
    for name in (*VARIABLES, BACKEND):
        if os.environ.pop(name, None) is not None:
            warnings.warn(f"{name} is not used here: removed it from this process", stacklevel=3)


def check_broker(urls: str) -> None:
    """Raises StackError unless kombu finds in the URL, or in each of several, what stands there."""
    for url in urls.split(";"):
        if "://" not in url:
            raise StackError(f"{_shown(url)} is no URL of a broker: kombu would look for RabbitMQ")
        try:
            connection = kombu.Connection(url)
            transport = connection.get_transport_cls()
        except Exception as error:  # KeyError, ImportError, ValueError, what a driver raises
            raise StackError(f"kombu cannot use {_shown(url)}: {_words(error)}") from error
        # Of `a+b://host` it hands on `b://host`, which only some transports can read
        # (`kombu/connection.py: Connection.__init__`). Redis looks for a socket's path in it, and
        # else goes to localhost (`kombu/transport/redis.py: Channel._connparams`).
        if connection.uri_prefix and not transport.can_parse_url and urlsplit(url).hostname:
            raise StackError(
                f"kombu misreads {_shown(url)}: its transport {connection.uri_prefix} does not see "
                f"the host, and would go to localhost. Write {connection.uri_prefix}://..."
            )


def check_backend(url: str) -> None:
    """Raises StackError unless Celery has a backend for the URL and finds in it what it needs."""
    try:
        Celery("results", backend=url, set_as_current=False).backend  # noqa: B018
    except Exception as error:  # ImportError, ImproperlyConfigured, what a driver raises
        raise StackError(f"Celery cannot keep results at {_shown(url)}: {_words(error)}") from error
    scheme = urlsplit(url).scheme
    if "+" in scheme and scheme.partition("+")[0] in kombu.transport.TRANSPORT_ALIASES:
        check_broker(url)  # `redis+cluster://` is no cluster here either


def _shown(url: str) -> str:
    """Without user and password."""
    scheme = url[: url.find("://") + 3] if "://" in url else ""
    return repr(scheme + url.removeprefix(scheme).rpartition("@")[2])


def _words(error: Exception) -> str:
    return str(error.args[0]) if error.args else repr(error)
