"""Faults of a release that a page rests on: does the installed Celery have them, and which did?"""

import warnings
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.worker.consumer import Consumer
from kombu import Exchange, Queue

from helpers.stack import Stack

# Seen in workers of these releases of Celery (`notebooks/grids/restart_versions.py`). What is not
# here is asked all the same; `make test-next` says when a line is missing.
EXITS_ON_RESTART = {"5.5.3": False, "5.6.3": False, "5.7.0": True}


@cache
def exits_on_restart() -> bool:
    """Does a worker that holds a message, and waits for more, end when it loses its Redis?

    Tries what a worker does then (`celery/worker/consumer/consumer.py:
    Consumer.on_connection_error_after_connected`), with a worker's two channels: one for tasks, one
    for remote control. It asks the code and not the version: a patched Celery answers for itself.
    """
    with Stack(backend=None, name="known faults") as stack, warnings.catch_warnings():
        app = Celery("known_faults", broker=stack.redis.url(), set_as_current=False)
        app.conf.worker_enable_prefetch_count_reduction = False  # there is no pool to count in
        connection: Any = app.connection_for_read()
        tasks, control = connection.default_channel, connection.channel()
        held: list[object] = []
        orders = Queue("orders", channel=tasks)
        orders.declare()
        connection.Producer(tasks).publish("an order", routing_key="orders")
        connection.Consumer(orders, channel=tasks, on_message=held.append).consume()
        news = Queue("news", Exchange("news", type="fanout"), auto_delete=True)
        connection.Consumer(news, channel=control, on_message=held.append).consume()
        while not held:
            connection.drain_events(timeout=5)
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.05)  # asks for the next
        stack.redis.kill()
        stub: Any = SimpleNamespace(app=app, connection=connection, pool=None, hub=None)
        try:
            warnings.simplefilter("ignore")  # of a setting that has another default some day
            Consumer.on_connection_error_after_connected(stub, ConnectionError("gone"))
        except AttributeError:
            return True
        finally:
            tasks.qos._on_collect.cancel()  # it would put the message back when Python ends
        return False
