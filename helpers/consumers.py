"""What the workers' consumers said of themselves: who consumes what, what they were handed."""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

from helpers.ledger import Event, History

# Events in which a worker says what it consumes as of then. The last one holds.
_SAYS = ("ready", "connected", "consuming")
# A worker remembers a revoke for so long (`celery/worker/state.py: REVOKE_EXPIRES`).
_REVOKE_EXPIRES = 10_800


class Receipt(NamedTuple):
    """A delivery to a process, and how often its consumer had lost its connection by then."""

    pid: int
    lost: int
    due: float  # wall time of its ETA; 0 without one
    number: int  # of the deliveries of this task to this process, from 1


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
        self._lost: dict[int, list[float]] = {}  # wall times
        self._takes_all: set[int] = set()
        # The last `Receipt` of each delivery tag, as a plain tuple: that is made in half the time.
        self._receipts: dict[str, tuple[int, int, float, int]] = {}
        self._received: dict[tuple[int, str], int] = {}
        self._begun: dict[tuple[int, str], int] = {}
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
            self._lost.setdefault(pid, []).append(math.inf)
        self._said[pid] = event
        if event.get("takes_all"):
            self._takes_all.add(pid)
        heard = frozenset(event.get("broadcasts", ()))
        self._subscribed.append((event["at"], pid, event.get("worker", ""), heard))

    def _disconnects(self, event: Event) -> None:
        self._lost.setdefault(event["pid"], []).append(event["wall"])
        self._hears_nothing(event)

    def _leaves(self, event: Event) -> None:
        """It shuts down: takes nothing any more, and its event loop stands still."""
        nothing: Event = {
            "queues": [],
            "broadcasts": [],
            "sweep_period": None,
            "leaving": True,
        }
        self._said[event["pid"]] = self._said.get(event["pid"], event) | nothing
        self._hears_nothing(event)

    def _hears_nothing(self, event: Event) -> None:
        nothing: frozenset[str] = frozenset()
        self._subscribed.append((event["at"], event["pid"], event.get("worker", ""), nothing))

    def _receives(self, event: Event) -> None:
        pid, number = event["pid"], 1
        if pid in self._takes_all:
            key = pid, event["id"]
            self._received[key] = number = self._received.get(key, 0) + 1
        lost = len(self._lost[pid]) if pid in self._lost else 0
        self._receipts[event["tag"]] = pid, lost, event.get("due") or 0.0, number

    def _begins(self, event: Event) -> None:
        if event["pid"] in self._takes_all:
            key = event["pid"], event["id"]
            self._begun[key] = self._begun.get(key, 0) + 1

    def _receipt(self, tag: str) -> Receipt | None:
        found = self._receipts.get(tag)
        return Receipt(*found) if found else None

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

    def has_in_hand(self, tag: str, task_id: str) -> bool:
        """Whether a live consumer knows of a delivery: it was its own, and it did not forget it.

        A consumer that lost its connection forgets what it was handed and has not given to its pool
        (`celery/worker/consumer/consumer.py: Consumer.on_close`). Prefork and solo take a task when
        they can run it; the other pools take it at once, unless it waits for its ETA.
        """
        receipt = self._receipt(tag)
        if receipt is None or receipt.pid not in self._live:
            return False
        lost = self._lost.get(receipt.pid, [])
        if receipt.lost == len(lost):
            return True
        return receipt.due < lost[receipt.lost] < math.inf and self._waits_in_pool(receipt, task_id)

    def _waits_in_pool(self, receipt: Receipt, task_id: str) -> bool:
        """Such a pool runs the copies of a task in the order in which it got them."""
        return (
            receipt.pid in self._takes_all
            and self._begun.get((receipt.pid, task_id), 0) < receipt.number
        )

    def will_drop(self, tag: str, task_id: str) -> bool:
        """Whether the holder of a delivery was told to drop the task when its time comes.

        What the pool has already taken runs all the same (`Request.execute_using_pool` asks).
        """
        receipt = self._receipt(tag)
        if receipt is None or (told := self._revoked.get((receipt.pid, task_id))) is None:
            return False
        taken = receipt.pid in self._takes_all and receipt.due < told
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
    **dict.fromkeys(("started", "discarded"), Consumers._begins),
    "revoked": Consumers._revokes,
}
