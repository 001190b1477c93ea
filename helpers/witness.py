"""Writes the ledger from inside the processes that publish and run tasks.

A worker loads it from its command line (`-I helpers.witness`), a beat with `helpers.beat.Loader`;
the application knows nothing of it.
Importing it does nothing unless the environment names a ledger, which only a stack's workers have.
It uses Celery's own extension points where there are any: signals, a consumer bootstep, a class of
its own for `app.amqp` and for the transport's `Channel.QoS`.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery, bootsteps, current_app, signals, states
from celery.app import trace
from celery.concurrency import solo
from celery.utils.dispatch.signal import logger
from celery.worker import state as worker
from kombu.message import Message
from kombu.transport import redis
from kombu.utils.objects import cached_property

from helpers.ledger import Ledger

LEDGER_VARIABLE = "TASK_LEDGER"
OPTIONS_VARIABLE = "TASK_BROKER_OPTIONS"


def add_transport_options(app: Celery, options: Mapping[str, Any]) -> None:
    """Give an application what it needs to reach the broker, beside what it set itself."""
    if options:
        app.conf.broker_transport_options = {**app.conf.broker_transport_options, **options}


def watch_publishes(app: Celery, ledger: Ledger) -> None:
    """Record each publish of `app`: attempted, then accepted or refused.

    The signals before_task_publish and after_task_publish do not say which application publishes,
    and nothing at all when a publish raises. So this wraps the one function through which every
    publish goes (`celery/app/amqp.py: AMQP.send_task_message`): calls, retries, chord bodies.
    """
    ours: type[Any] = type(app.amqp)

    class WitnessedAMQP(ours):
        """The application's own, which also tells the ledger."""

        @cached_property
        def send_task_message(self) -> Callable[..., Any]:
            return _witnessed(super().send_task_message, ledger, lambda o: _broadcast(self, o))

    amqp = WitnessedAMQP(app)
    # A worker has chosen its queues by now (`celery/worker/worker.py: setup_queues`). The sender is
    # made anew, at the first publish, from the configuration of that moment.
    amqp.__dict__.update(app.amqp.__dict__)
    amqp.__dict__.pop("send_task_message", None)
    app.amqp = amqp


def _broadcast(amqp: Any, options: Mapping[str, Any]) -> str:
    """The fanout exchange to which a publish with these options goes; empty if it goes to a queue.

    As `celery/app/amqp.py: AMQP.send_task_message` finds it: the queue's, or the one that is named.
    """
    queue, exchange = options.get("queue"), options.get("exchange")
    if queue is not None and exchange is None:
        exchange = (amqp.queues[queue] if isinstance(queue, str) else queue).exchange
    if isinstance(exchange, str):
        known = {own.exchange.name: own.exchange for own in amqp.queues.values() if own.exchange}
        declared = [one for one in options.get("declare") or () if one.name == exchange]
        exchange = next(iter(declared), known.get(exchange))
    return exchange.name if exchange is not None and exchange.type == "fanout" else ""


def _witnessed(
    send: Callable[..., Any], ledger: Ledger, broadcast: Callable[[Mapping[str, Any]], str]
) -> Callable[..., Any]:
    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        about = message.headers or message.body  # protocol 2, protocol 1
        task_id, retries = about["id"], about["retries"]
        # What `charge(3)` was called with, as Celery itself writes it into the message.
        args = about.get("argsrepr")
        more = {"broadcast": exchange} if (exchange := broadcast(options)) else {}
        ledger.append("attempted", task_id, task=name, retries=retries, args=args, **more)
        try:
            result = send(producer, name, message, **options)
        except BaseException as error:
            ledger.append("refused", task_id, task=name, retries=retries, why=repr(error))
            raise
        ledger.append("accepted", task_id, task=name, retries=retries)
        return result

    return send_task_message


def watch_worker(app: Celery, ledger: Ledger) -> None:
    """Record what this worker process receives, starts, finishes, retries, fails and drops."""
    _watch_tasks(ledger)
    _watch_beat(ledger)
    _watch_consumer(app, ledger)
    _watch_returns(ledger)
    _watch_revokes(ledger)
    _watch_copies(ledger)


def _watch_tasks(ledger: Ledger) -> None:
    # Celery keeps weak references to receivers unless told otherwise, and ours are local.
    connect: dict[str, Any] = {"weak": False}

    @signals.worker_ready.connect(**connect)
    def ready(sender: Any, **_: Any) -> None:
        ledger.append("ready", **_about(sender))

    @signals.task_received.connect(**connect)
    def received(request: Any, **_: Any) -> None:
        # What tells a redelivery (same retries, redelivered) from a retry (retries + 1).
        message, eta = request.message, request.eta
        ledger.append(
            "received",
            request.id,
            task=request.name,
            worker=_short(request.hostname),
            due=eta.timestamp() if eta else 0.0,  # wall time of its ETA
            retries=(message.headers or {}).get("retries", 0),
            redelivered=bool(message.delivery_info.get("redelivered")),
            tag=message.delivery_tag,
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
        elif state is None:  # cut off from outside: SystemExit, GreenletExit
            ledger.append("cancelled", task_id, task=task.name)

    @signals.task_revoked.connect(**connect)
    def revoked(request: Any, terminated: bool, expired: bool, **_: Any) -> None:
        if terminated:
            ledger.append("failed", request.id, task=request.task, why="terminated")
        else:
            why = "expired" if expired else "revoked"
            ledger.append("discarded", request.id, task=request.task, why=why)

    # The three that every task sends. `celery/app/trace.py` has its own names for two of them.
    signals.task_received.send = _shortcut(signals.task_received, received)
    trace.send_prerun = _shortcut(signals.task_prerun, started)
    trace.send_postrun = _shortcut(signals.task_postrun, finished)


def _shortcut(signal: Any, ours: Callable[..., None]) -> Callable[..., list[Any]]:
    """`signal.send`, but straight to `ours` while nobody else listens.

    The way through the receivers is a third of what the witness adds to an empty task.
    """
    send = signal.send

    def sent(sender: Any, **about: Any) -> list[Any]:
        if len(signal.receivers) > 1:
            return send(sender, **about)
        try:
            ours(**about)
        except Exception as error:  # as a signal does: it never harms who sends it
            logger.exception("Signal handler %r raised: %r", ours, error)
        return []

    return sent


def _watch_beat(ledger: Ledger) -> None:
    """A beat of its own, or the one that `celery worker -B` embeds: it starts to send."""

    @signals.beat_init.connect(weak=False)
    def beating(**_: Any) -> None:
        ledger.append("beating")


def _watch_consumer(app: Celery, ledger: Ledger) -> None:
    """What no signal tells of the worker's consumer (`celery/worker/consumer/consumer.py`).

    That it drops a message that no task can run, that it lost its connection (and forgets what it
    was handed), that it has one again, and that remote control made it take up or give up a queue.
    """

    class Watched(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer:Tasks",)

        def __init__(self, consumer: Any, **options: Any) -> None:
            for name, why in _DROPS.items():
                setattr(consumer, name, _told_first(ledger, getattr(consumer, name), why))
            consumers.append(consumer)
            # The event loop calls on_ready each time it consumes again (`celery/worker/loops.py`).
            consumer.on_ready = _then(consumer.on_ready, tell(consumer, "connected"))
            for change in ("add_task_queue", "cancel_task_queue"):
                told_then = _then(getattr(consumer, change), tell(consumer, "consuming"))
                setattr(consumer, change, told_then)
            super().__init__(consumer, **options)

        def stop(self, consumer: Any) -> None:
            # Its blueprint runs on where it only lost its connection (`Consumer.start`).
            lost = consumer.blueprint.state == bootsteps.RUN
            event = "disconnected" if lost else "leaving"
            ledger.append(event, worker=_short(consumer.hostname))

    consumers: list[Any] = []
    channel: Any = redis.Channel
    subscribe = channel._subscribe

    def subscribed(self: Any) -> None:
        """Comes after on_ready, and after each message (`MultiChannelPoller._register_LISTEN`)."""
        subscribe(self)
        heard = {self._fanout_queues[queue][0] for queue in self.active_fanout_queues}
        if heard != getattr(self, "heard", None):
            self.heard = heard
            for consumer in consumers:
                if consumer.connection and consumer.connection.default_channel is self:
                    ledger.append("consuming", **_about(consumer))

    channel._subscribe = subscribed

    def tell(consumer: Any, event: str) -> Callable[[], None]:
        return lambda: ledger.append(event, **_about(consumer))

    app.steps["consumer"].add(Watched)


def _then(act: Callable[..., Any], tell: Callable[[], None]) -> Callable[..., Any]:
    def both(*arguments: Any, **options: Any) -> Any:
        result = act(*arguments, **options)
        tell()
        return result

    return both


def _watch_revokes(ledger: Ledger) -> None:
    """A revoke is only remembered, in each worker, until the message comes or its time does.

    `celery/worker/control.py: _revoke`. The signal task_revoked is sent when the task is dropped.
    """
    update = worker.revoked.update

    def remembered(ids: Any) -> None:
        update(ids)
        for task_id in [ids] if isinstance(ids, str) else ids:
            ledger.append("revoked", task_id)

    worker.revoked.update = remembered


def _watch_copies(ledger: Ledger) -> None:
    """No signal says that a task was not run because a copy of it had succeeded.

    With worker_deduplicate_successful_tasks, Celery looks into a set of ids, then asks the result
    backend and adds the id to the set (`celery/app/trace.py: trace_task`).
    """
    ids, names = trace.successful_requests, list[str]()

    @signals.celeryd_after_setup.connect(weak=False)
    def named(sender: str, **_: Any) -> None:
        names.append(_short(sender))

    def skipped(task_id: str) -> None:
        ledger.append("deduplicated", task_id, worker=names[-1])

    class WitnessedIds:
        def __contains__(self, task_id: str) -> bool:
            if found := task_id in ids:
                skipped(task_id)
            return found

        def add(self, task_id: str) -> None:
            ids.add(task_id)
            skipped(task_id)

    trace.successful_requests = WitnessedIds()


def _watch_returns(ledger: Ledger) -> None:
    """No signal either when a sweep, a requeue or a shutdown puts a message back (Redis).

    It happens in a transaction (`kombu/transport/redis.py: QoS.restore_by_tag`). That one begins
    again when another worker changes `unacked` meanwhile, and a full Redis can refuse its end: so
    what it moved is only remembered, and written down once it is done.
    """
    channel: Any = redis.Channel
    ours: type[Any] = channel.QoS
    put_back = channel._do_restore_message

    class WitnessedQoS(ours):
        """The transport's own, which also tells the ledger."""

        moved: dict[str, Any] | None = None
        moved_at = 0.0

        def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
            self.moved = None
            super().restore_by_tag(tag, client, leftmost)
            if self.moved is not None:
                # Only a requeue (`QoS.reject`) puts it on the left.
                task_id = _id_of(self.moved.get("headers"), self.moved.get("properties"))
                ledger.append("restored", task_id, requeued=leftmost, moved_at=self.moved_at)

        def _remove_from_indices(self, tag: str, pipe: Any = None) -> Any:
            self.moved = None  # the first command of each attempt
            return super()._remove_from_indices(tag, pipe)

    def remembered(self: Any, payload: Any, *place: Any, **options: Any) -> None:
        put_back(self, payload, *place, **options)
        # Before the end of the transaction: another worker can have the message right after it.
        self.qos.moved, self.qos.moved_at = payload, time.monotonic()

    # On the class: other channels, such as Sentinel's, inherit both.
    channel.QoS, channel._do_restore_message = WitnessedQoS, remembered


# What a consumer does with a message that no task can run (`celery/worker/consumer/consumer.py`).
_DROPS = {
    "on_unknown_task": "unknown task name",
    "on_invalid_task": "unreadable message",
    "on_decode_error": "refused content",
}


def _told_first(ledger: Ledger, drop: Callable[..., None], why: str) -> Callable[..., None]:
    """Before: it may end on the way, or meet a dead result backend. Celery's signals come after."""

    def told(*about: Any) -> None:
        message = next(one for one in about if isinstance(one, Message))
        task_id = _id_of(message.headers, message.properties)
        name, error = (message.headers or {}).get("task"), about[-1]
        ledger.append("discarded", task_id, task=name, why=f"{why}: {error!r}")
        drop(*about)

    return told


def _id_of(headers: Any, properties: Any) -> str | None:
    """The task's id from outside the body: of protocol 2, else of protocol 1."""
    return (headers or {}).get("id") or (properties or {}).get("correlation_id")


def _about(consumer: Any) -> dict[str, Any]:
    """Who consumes what, as of now, and when it puts back what it was not told of."""
    queues = consumer.app.amqp.queues.consume_from
    fanout = {name: q for name, q in queues.items() if q.exchange.type == "fanout"}
    broadcasts = {queue.exchange.name for queue in fanout.values()}
    channel = consumer.connection.default_channel
    if hasattr(channel, "_subscribe"):  # Redis: only what it has asked for comes
        broadcasts &= getattr(channel, "heard", set())
    return {
        "worker": _short(consumer.hostname),
        "queues": sorted(queues.keys() - fanout.keys()),
        "broadcasts": sorted(broadcasts),
        # As the broker calls them (`kombu/transport/redis.py: PrefixedStrictRedis`).
        "prefix": getattr(channel, "global_keyprefix", ""),
        # A pool without this gets each task at once (`celery/worker/worker.py: _process_task_sem`).
        "takes_all": not (consumer.pool.uses_semaphore or isinstance(consumer.pool, solo.TaskPool)),
        "transport_options": dict(consumer.app.conf.broker_transport_options),
        **_sweep(consumer),
    }


def _short(hostname: str) -> str:
    """`worker1` of `worker1@stack`."""
    return hostname.partition("@")[0]


def _sweep(consumer: Any) -> dict[str, Any]:
    """How long this worker leaves a message in `unacked`, and how often it looks, in seconds.

    `kombu/transport/redis.py: QoS.restore_visible` and `Transport.register_with_event_loop`: a pool
    without an event loop (gevent, eventlet) never looks, so it has no period. Empty for a transport
    without such a clock.
    """
    channel = consumer.connection.default_channel
    if not hasattr(channel, "visibility_timeout"):
        return {}
    period = channel.unacked_restore_interval * channel.unacked_restore_throttle
    return {
        "visibility_timeout": float(channel.visibility_timeout),
        "sweep_period": None if consumer.hub is None else float(period),
    }


if path := os.environ.get(LEDGER_VARIABLE):
    _app, _ledger = current_app._get_current_object(), Ledger(path)
    add_transport_options(_app, json.loads(os.environ.get(OPTIONS_VARIABLE, "{}")))
    watch_publishes(_app, _ledger)
    watch_worker(_app, _ledger)
