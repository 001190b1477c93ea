"""What the workers' consumers said of themselves: who consumes what, what they were handed."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from helpers.ledger import Event, History

# Events in which a worker says what it consumes as of then. The last one holds.
_SAYS = ("ready", "connected", "consuming")
# A worker remembers a revoke for so long (`celery/worker/state.py: REVOKE_EXPIRES`).
_REVOKE_EXPIRES = 10_800


Delivery = tuple[int, str, float]  # to a process, with a tag, at a moment of the ledger's clock


class Receipt(NamedTuple):
    """What a process knew of a delivery, and how often it had lost its connection by then."""

    lost: int
    due: float  # wall time of its ETA; 0 without one


class Consumers:
    """One reading of a history.

    `live` are the processes that are alive, `ended` says when the others were seen to have ended,
    on the ledger's clock `at`.
    """

    def __init__(
        self, history: History, live: Collection[int], ended: Mapping[int, float] | None = None
    ) -> None:
        self._live = live
        self._ended = ended or {}
        self._said: dict[int, Event] = {}  # by process id
        self._lost: dict[int, list[Event]] = {}  # its connection, or all that it knew
        self._takes_all: set[int] = set()
        # Of each delivery its `Receipt`, as a plain tuple: that is made in half the time.
        self._receipts: dict[Delivery, tuple[int, float]] = {}
        self._last: dict[str, Delivery] = {}  # by tag, which stays when a sweep puts it back
        self._revoked: dict[tuple[int, str], float] = {}  # wall time
        self._subscribed: list[tuple[float, int, str, frozenset[str]]] = []
        for event in history:
            if read := _READ.get(event["event"]):
                read(self, event)

    def _says(self, event: Event) -> None:
        pid = event["pid"]
        if event["event"] == "ready" and pid in self._said:
            # SIGHUP: a new program in the same process (`celery/apps/worker.py: _reload_current_
            # worker`), which knows nothing of what the old one had.
            self._lost.setdefault(pid, []).append(event)
        self._said[pid] = event
        if event.get("takes_all"):
            self._takes_all.add(pid)
        heard = frozenset(event.get("broadcasts", ()))
        self._subscribed.append((event["at"], pid, event.get("worker", ""), heard))

    def _disconnects(self, event: Event) -> None:
        self._lost.setdefault(event["pid"], []).append(event)
        self._hears_nothing(event)

    def _leaves(self, event: Event) -> None:
        """It shuts down: takes nothing any more, and its event loop stands still."""
        nothing: Event = {"queues": [], "broadcasts": [], "sweep_period": None, "leaving": True}
        self._said[event["pid"]] = self._said.get(event["pid"], event) | nothing
        self._hears_nothing(event)

    def _hears_nothing(self, event: Event) -> None:
        nothing: frozenset[str] = frozenset()
        self._subscribed.append((event["at"], event["pid"], event.get("worker", ""), nothing))

    def _receives(self, event: Event) -> None:
        pid, tag = event["pid"], event["tag"]
        self._last[tag] = delivery = pid, tag, event["at"]
        lost = len(self._lost[pid]) if pid in self._lost else 0
        self._receipts[delivery] = lost, event.get("due") or 0.0

    def _revokes(self, event: Event) -> None:
        self._revoked[event["pid"], event["id"]] = event["wall"]

    @property
    def ever(self) -> list[Event]:
        """What each worker said last, also those that are gone."""
        return list(self._said.values())

    @property
    def now(self) -> list[Event]:
        """What each worker that is alive said last."""
        return [event for pid, event in self._said.items() if pid in self._live]

    @property
    def consumed(self) -> set[str]:
        """The queues that somebody consumes now, as the broker calls them."""
        return {event.get("prefix", "") + queue for event in self.now for queue in event["queues"]}

    @property
    def leaving(self) -> bool:
        """Whether a worker shuts down: what it asked for may be in its socket, in no store.

        It puts that back when its channel closes (`kombu/transport/redis.py: Channel.close`).
        """
        return any(event.get("leaving") for event in self.now)

    def has(self, tag: str) -> Delivery | None:
        """The last delivery with this tag, if a live consumer knows of it: it did not forget it."""
        delivery = self._last.get(tag)
        if delivery is None or delivery[0] not in self._live:
            return None
        kept = Receipt(*self._receipts[delivery]).lost == len(self._lost.get(delivery[0], ()))
        return delivery if kept else None

    def waiting(
        self, deliveries: Sequence[Delivery], begun: Sequence[tuple[str, float]]
    ) -> list[Delivery]:
        """Those of one task that are still to begin in a live worker.

        `begun` says by which worker one of them began, and when. It is the oldest that the worker
        had not forgotten. A sweep puts back what a worker waits to run, and it has a second one.
        """
        if len(deliveries) == len(begun) == 1 and self._began(deliveries[0], *begun[0]):
            return []  # nearly always
        left = list(deliveries)
        for worker, at in begun:
            for own in left:
                if self._began(own, worker, at):
                    left.remove(own)
                    break
        return [own for own in left if own[0] in self._live and self._forgot(own) == math.inf]

    def _began(self, delivery: Delivery, worker: str, at: float) -> bool:
        """Whether it can be the one with which a worker began at a moment."""
        pid, _, since = delivery
        by = self._said.get(pid, {}).get("worker", worker)
        return by == worker and since <= at < self._forgot(delivery)

    def _forgot(self, delivery: Delivery) -> float:
        """When its consumer forgot it, on the ledger's clock.

        One that loses its connection forgets what it was handed and has not given to its pool
        (`celery/worker/consumer/consumer.py: Consumer.on_close`). Prefork and solo take a task when
        they can run it; the other pools take it at once, unless it waits for its ETA.
        """
        pid, receipt = delivery[0], Receipt(*self._receipts[delivery])
        lost = self._lost.get(pid, [])[receipt.lost :]
        if not lost:
            return math.inf
        first = lost[0]
        pool = pid in self._takes_all and receipt.due < first["wall"]
        return math.inf if pool and first["event"] == "disconnected" else float(first["at"])

    def will_drop(self, delivery: Delivery, task_id: str) -> bool:
        """Whether the holder of a delivery was told to drop the task when its time comes.

        What the pool has already taken runs all the same (`Request.execute_using_pool` asks).
        """
        pid = delivery[0]
        if (told := self._revoked.get((pid, task_id))) is None:
            return False
        receipt = Receipt(*self._receipts[delivery])
        taken = pid in self._takes_all and receipt.due < told
        return not taken and receipt.due < told + _REVOKE_EXPIRES

    def subscribed(self, exchange: str, at: float) -> set[str]:
        """The workers that were subscribed to a broadcast at a moment of the ledger's clock."""
        heard: dict[int, tuple[str, frozenset[str]]] = {}
        for since, pid, worker, exchanges in self._subscribed:
            if since <= at < self._ended.get(pid, math.inf):
                heard[pid] = worker, exchanges
        return {worker for worker, exchanges in heard.values() if exchange in exchanges}


_READ = {
    **dict.fromkeys(_SAYS, Consumers._says),
    "disconnected": Consumers._disconnects,
    "leaving": Consumers._leaves,
    "received": Consumers._receives,
    "revoked": Consumers._revokes,
}
