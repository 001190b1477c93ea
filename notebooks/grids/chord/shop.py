"""The application, its settings and servers, and the lines at which it dies or mends a chord."""

from typing import Any

SHOP = """
import functools
import os
import signal
import time

from celery import Celery, Task, chord, group, signals
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore, NotRegistered, Reject, TaskRevokedError
from celery.result import allow_join_result
from kombu.serialization import register
from kombu.utils import json

app = Celery("shop")
task = functools.partial(app.task, shared=False)  # one process loads this many times
register("parcel", json.dumps, json.loads, "application/x-parcel", "utf-8")

@task
def charge(order, seconds=0):
    time.sleep(seconds)
    return order

@task
def total(amounts):
    return len(amounts)

@task
def fail(*_):
    raise ValueError("no such order")

@task
def tell(*_):
    return {"error": "no such order"}

@task(bind=True, max_retries=1)
def again(self):
    raise self.retry(exc=ValueError("no such order"), countdown=0)

@task
def ignore(*_):
    raise Ignore()

@task
def reject(*_):
    raise Reject("no such order", requeue=False)

@task
def crash(*_):
    os.kill(os.getpid(), signal.SIGKILL)

@task(default_retry_delay=0, max_retries=3)
def pill():
    os.kill(os.getpid(), signal.SIGKILL)

@task(time_limit=1)
def endless(*_):
    time.sleep(60)

@task
def unreadable():
    return object()

@task
def asks():
    with allow_join_result():
        return charge.delay(1).get()

@task(bind=True)
def splits(self, part):
    raise self.replace(group(app.signature(part, args=(n,)) for n in range(2)))

@task
def alarm(task_id=None):  # an errback on a part of a header gets none
    pass

@task(ignore_result=True)
def unstored(order):
    return order

@task(ignore_result=True)
def unstored_total(amounts):
    return len(amounts)
"""

# --- settings of the application, of its worker and of its servers ------------------------------

QUICK: dict[str, Any] = {
    "broker_transport_options": {
        "visibility_timeout": 3,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
}
LATE = {**QUICK, "task_acks_late": True}
DEDUPLICATE = {**LATE, "worker_deduplicate_successful_tasks": True}
ON_HEADER = {"task_allow_error_cb_on_chord_header": True}
PILL = {"task_acks_late": True, "task_reject_on_worker_lost": True}
IMPATIENT = {
    "broker_transport_options": {**QUICK["broker_transport_options"], "visibility_timeout": 1}
}
PATIENT = {
    "task_acks_late": True,
    "broker_transport_options": {**QUICK["broker_transport_options"], "visibility_timeout": 30},
}
ONE = ("--concurrency=1",)
BOTH_QUEUES = ("--concurrency=2", "--queues=celery,parcels")
OWN: dict[str, str] = {}  # a second server with nothing in its redis.conf
APPEND = {"appendonly": "yes"}
SMALL = {"maxmemory": "5mb", "maxmemory-policy": "volatile-lru"}

# --- lines that die or mend ---------------------------------------------------------------------

# The signals stand for a power cut at that line. Nothing else is changed.
DIES = """
import pathlib
LINE = pathlib.Path(__file__).with_name("died")

def die(group):
    if not LINE.exists():
        LINE.touch()
        os.killpg(0, signal.SIGKILL) if group else os.kill(os.getpid(), signal.SIGKILL)
"""
DIES_BEFORE_COUNT = """
count = RedisBackend.on_chord_part_return

def on_chord_part_return(self, request, *arguments, **options):
    if request.group_index == 1:
        die({group})
    return count(self, request, *arguments, **options)

RedisBackend.on_chord_part_return = on_chord_part_return
"""
DIES_BEFORE_BODY = """
publish = app.amqp._retry_publish

def _retry_publish(*arguments, **options):
    die({group})
    return publish(*arguments, **options)

app.amqp._retry_publish = _retry_publish
"""
TELL_UNKNOWN = """
@signals.task_unknown.connect(weak=False)
def report(sender, message, exc, name, id, **_):
    embed = message.decode()[2]
    request = Context(message.headers, chord=embed["chord"], chain=embed["chain"],
                      errbacks=embed["errbacks"], group_index=message.headers.get("group_index"))
    app.backend.mark_as_failure(id, NotRegistered(name), request=request)
"""
TELL_REVOKED = """
@signals.task_revoked.connect(weak=False)
def report(request, **_):
    app.backend._fail_chain(request.chain, TaskRevokedError("revoked"), state="REVOKED")
"""
TELL_OUTER = """
told = RedisBackend.chord_error_from_stack

def chord_error_from_stack(self, callback, exc=None):
    info = told(self, callback, exc)
    options = callback.options
    if isinstance(callback, chord):  # the body is a chord: its own body is what callers wait for
        self.chord_error_from_stack(callback.body, exc)
    elif options.get("chord"):  # the body is a part of an outer chord
        request = Context(id=callback.id, group=options["group_id"], chord=options["chord"],
                          group_index=options.get("group_index"))
        self.on_chord_part_return(request, "FAILURE", exc)
    return info

RedisBackend.chord_error_from_stack = chord_error_from_stack
"""
