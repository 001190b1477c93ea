"""Writes the ledger from inside the processes that publish and run tasks.

A worker loads it from its command line (`-I helpers.witness`); the application knows nothing of it.
Importing it does nothing unless the environment names a ledger, which only a stack's workers have.
"""

import os
from collections.abc import Callable
from typing import Any

from celery import Celery, current_app, signals, states

from helpers.ledger import Ledger

LEDGER_VARIABLE = "TASK_LEDGER"


def watch_publishes(app: Celery, ledger: Ledger) -> None:
    """Record each publish of `app`: attempted, then accepted or refused.

    The signals before_task_publish and after_task_publish do not say which application publishes,
    and nothing at all when a publish raises. So this wraps the one function through which every
    publish goes (`celery/app/amqp.py: AMQP.send_task_message`): calls, retries, chord bodies.
    """
    create = app.amqp._create_task_sender

    def create_witnessed() -> Callable[..., Any]:
        send = create()

        def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
            about = message.headers or message.body  # protocol 2, protocol 1
            task_id, retries = about["id"], about["retries"]
            # What `charge(3)` was called with, as Celery itself writes it into the message.
            args = about.get("argsrepr")
            ledger.append("attempted", task_id, task=name, retries=retries, args=args)
            try:
                result = send(producer, name, message, **options)
            except BaseException as error:
                ledger.append("refused", task_id, task=name, retries=retries, why=repr(error))
                raise
            ledger.append("accepted", task_id, task=name, retries=retries)
            return result

        return send_task_message

    # Celery builds the sender at the first publish, from the configuration of that moment.
    app.amqp._create_task_sender = create_witnessed
    app.amqp.__dict__.pop("send_task_message", None)


def watch_worker(ledger: Ledger) -> None:
    """Record what this worker process receives, starts, finishes, retries, fails and drops."""
    # Celery keeps weak references to receivers unless told otherwise, and ours are local.
    connect = {"weak": False}

    @signals.worker_ready.connect(**connect)
    def ready(sender: Any, **_: Any) -> None:
        queues = sorted(sender.app.amqp.queues.consume_from)
        ledger.append("ready", worker=_short(sender.hostname), queues=queues, **_sweep(sender))

    @signals.task_received.connect(**connect)
    def received(request: Any, **_: Any) -> None:
        ledger.append(
            "received",
            request.id,
            task=request.name,
            worker=_short(request.hostname),
            **_delivery(request.message),
        )

    @signals.task_prerun.connect(**connect)
    def started(task_id: str, task: Any, **_: Any) -> None:
        request = task.request
        ledger.append(
            "started",
            task_id,
            task=task.name,
            worker=_short(request.hostname),
            retries=request.retries,
            redelivered=bool((request.delivery_info or {}).get("redelivered")),
        )

    @signals.task_retry.connect(**connect)
    def retried(sender: Any, request: Any, reason: Any = None, **_: Any) -> None:
        # A cold shutdown stores RETRY too, but gives no reason and sends no message
        # (`celery/worker/request.py: Request._announce_cancelled`).
        event = "cancelled" if reason is None else "retried"
        ledger.append(event, request.id, task=sender.name, why=repr(reason))

    @signals.task_failure.connect(**connect)
    def failed(sender: Any, task_id: str, exception: BaseException, **_: Any) -> None:
        ledger.append("failed", task_id, task=sender.name, why=repr(exception))

    @signals.task_postrun.connect(**connect)
    def finished(task_id: str, task: Any, state: str | None = None, **_: Any) -> None:
        # Not task_success: `raise Ignore()` ends a task on purpose and sends no other signal.
        if state in (states.SUCCESS, states.IGNORED):
            ledger.append("finished", task_id, task=task.name)

    @signals.task_revoked.connect(**connect)
    def revoked(request: Any, terminated: bool, expired: bool, **_: Any) -> None:
        if terminated:
            ledger.append("failed", request.id, task=request.task, why="terminated")
        else:
            why = "expired" if expired else "revoked"
            ledger.append("discarded", request.id, task=request.task, why=why)

    @signals.task_unknown.connect(**connect)
    def unknown(id: str, name: str, **_: Any) -> None:
        ledger.append("discarded", id, task=name, why="unknown task name")

    @signals.task_rejected.connect(**connect)
    def rejected(message: Any, exc: BaseException | None, **_: Any) -> None:
        _discarded(message, f"unreadable message: {exc!r}")

    # A refused content type sends no signal (`celery/worker/consumer/consumer.py`).
    from celery.worker.consumer.consumer import Consumer
    from kombu.transport.redis import Channel

    on_decode_error = Consumer.on_decode_error

    def refused_content(self: Any, message: Any, exc: BaseException) -> None:
        on_decode_error(self, message, exc)
        _discarded(message, f"refused content: {exc!r}")

    Consumer.on_decode_error = refused_content

    # No signal either: a sweep, a requeue or a shutdown puts an unacknowledged message back. Only
    # a requeue (`QoS.reject`) puts it on the left.
    restore = Channel._do_restore_message

    def restored(
        self: Any, payload: Any, exchange: str, key: str, pipe: Any, leftmost: bool = False
    ) -> None:
        restore(self, payload, exchange, key, pipe, leftmost)
        ledger.append("restored", payload["headers"].get("id"), requeued=leftmost)

    Channel._do_restore_message = restored

    def _discarded(message: Any, why: str) -> None:
        headers = message.headers or {}
        ledger.append("discarded", headers.get("id"), task=headers.get("task"), why=why)


def _short(hostname: str) -> str:
    """`worker1` of `worker1@stack`."""
    return hostname.partition("@")[0]


def _delivery(message: Any) -> dict[str, Any]:
    """What tells a redelivery (same retries, redelivered) from a retry (retries + 1)."""
    return {
        "retries": (message.headers or {}).get("retries", 0),
        "redelivered": bool(message.delivery_info.get("redelivered")),
        "tag": message.delivery_tag,
    }


def _sweep(consumer: Any) -> dict[str, float]:
    """How long this worker leaves a message in `unacked`, and how often it looks, in seconds.

    `kombu/transport/redis.py: QoS.restore_visible` and `Transport.register_with_event_loop`.
    """
    channel = consumer.task_consumer.channel
    return {
        "visibility_timeout": float(channel.visibility_timeout),
        "sweep_period": float(channel.unacked_restore_interval * channel.unacked_restore_throttle),
    }


if path := os.environ.get(LEDGER_VARIABLE):
    _ledger = Ledger(path)
    watch_publishes(current_app._get_current_object(), _ledger)
    watch_worker(_ledger)
