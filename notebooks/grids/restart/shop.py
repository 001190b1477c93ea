"""The application of these grids, for any version of Celery, and what its notes say of a run.

Its tasks write their own notes: other versions of Celery than ours need no instrument.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from helpers import Stack

PATCH = """
from celery.worker.consumer import consumer
from kombu.transport.redis import Channel

ignore_errors, parameters = consumer.ignore_errors, Channel._connparams

def close_quietly(connection, close):
    try:
        return ignore_errors(connection, close)
    except AttributeError:  # collected before it was closed
        pass

def parameters_all_the_same(self, *arguments, **options):
    if self.connection.client is None:  # collected: ask the application
        self.connection.client = app.connection_for_read()
    return parameters(self, *arguments, **options)

consumer.ignore_errors, Channel._connparams = close_quietly, parameters_all_the_same
"""
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.broker_transport_options = {options}

def note(word, order):
    with open("notes.txt", "a") as notes:
        notes.write(f"{{word}} {{order}}\\n")

@app.task(ignore_result=True)
def charge(order, seconds):
    note("started", order)
    time.sleep(seconds)
    note("finished", order)

@app.task(ignore_result=True, acks_late=True)
def charge_late(order, seconds):
    note("started", order)
    time.sleep(seconds)
    note("finished", order)
"""
# Every write is on disk before Redis answers: what is missing later was not lost by the server.
ON_DISK = {"appendonly": "yes", "appendfsync": "always"}


def notes(here: Path, word: str) -> Counter[int]:
    """How often each order was "started" or "finished"."""
    path = here / "notes.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(int(line.split()[1]) for line in lines if line.startswith(word))


def places(stack: Stack, here: Path, orders: Mapping[str, int]) -> dict[str, int]:
    """Where the orders are, as numbers of orders; `orders` has the order of each task's id.

    *stranded* is held in `unacked` and not done, *done_and_held* is held there although it is done:
    it will run again. *lost* is in no store, and not done.
    """
    in_hands = {entry.task_id for entry in stack.redis.unacked()}
    held = {order for task, order in orders.items() if task in in_hands}
    queues = stack.redis.queued().values()
    waiting = {order for task, order in orders.items() if any(task in ids for ids in queues)}
    done, every = set(notes(here, "finished")) & set(orders.values()), set(orders.values())
    return {
        "done": len(done),
        "starts": sum(notes(here, "started")[order] for order in every),
        "stranded": len(held - done),
        "done_and_held": len(held & done),
        "queued": len(waiting - done),
        "lost": len(every - done - held - waiting),
    }
