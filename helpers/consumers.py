"""What the workers' consumers said of themselves: who consumes what, what they were handed."""

from collections.abc import Collection
from typing import NamedTuple

from helpers.ledger import Event, History

# Events in which a worker says what it consumes as of then. The last one holds.
_SAYS = ("ready", "connected", "consuming")


class Receipt(NamedTuple):
    """A delivery to a process, and how often its consumer had lost its connection by then."""

    pid: int
    lost: int
    waits: bool  # for its ETA


class Consumers:
    """One reading of a history. `live` are the processes that are alive."""

    def __init__(self, history: History, live: Collection[int]) -> None:
        self._live = live
        self._said: dict[int, Event] = {}  # by process id
        self._lost: dict[int, int] = {}
        self._receipts: dict[str, Receipt] = {}  # the last of each delivery tag
        self._revoked: dict[str, set[int]] = {}
        self._subscribed: list[tuple[float, int, str, frozenset[str]]] = []
        for event in history:
            if read := _READ.get(event["event"]):
                read(self, event)

    def _says(self, event: Event) -> None:
        self._said[event["pid"]] = event
        heard = frozenset(event.get("broadcasts", ()))
        self._subscribed.append((event["at"], event["pid"], event.get("worker", ""), heard))

    def _disconnects(self, event: Event) -> None:
        self._lost[event["pid"]] = self._lost.get(event["pid"], 0) + 1
        self._leaves(event)

    def _leaves(self, event: Event) -> None:
        nothing: frozenset[str] = frozenset()
        self._subscribed.append((event["at"], event["pid"], event.get("worker", ""), nothing))

    def _receives(self, event: Event) -> None:
        pid = event["pid"]
        receipt = Receipt(pid, self._lost.get(pid, 0), event.get("waits", False))
        self._receipts[event["tag"]] = receipt

    def _revokes(self, event: Event) -> None:
        self._revoked.setdefault(event["id"], set()).add(event["pid"])

    @property
    def ever(self) -> list[Event]:
        """What each worker said last, also those that are gone."""
        return list(self._said.values())

    @property
    def now(self) -> list[Event]:
        """What each worker that is alive said last."""
        return [event for pid, event in self._said.items() if pid in self._live]

    def has_in_hand(self, tag: str) -> bool:
        """Whether a live consumer knows of a delivery: it was its own, and it did not forget it.

        A consumer that lost its connection forgets what it was handed and has not given to its pool
        (`celery/worker/consumer/consumer.py: Consumer.on_close`). Prefork and solo take a task when
        they can run it; the other pools take it at once, unless it waits for its ETA.
        """
        receipt = self._receipts.get(tag)
        if receipt is None or receipt.pid not in self._live:
            return False
        if receipt.lost == self._lost.get(receipt.pid, 0):
            return True
        return self._said[receipt.pid].get("takes_all", False) and not receipt.waits

    def will_drop(self, tag: str, task_id: str) -> bool:
        """Whether the holder of a delivery was told to drop the task when its time comes."""
        receipt = self._receipts.get(tag)
        return receipt is not None and receipt.pid in self._revoked.get(task_id, ())

    def subscribed(self, exchange: str, at: float) -> set[str]:
        """The workers that were subscribed to a broadcast at a moment of the ledger's clock."""
        heard: dict[int, tuple[str, frozenset[str]]] = {}
        for since, pid, worker, exchanges in self._subscribed:
            if since <= at:
                heard[pid] = worker, exchanges
        return {worker for worker, exchanges in heard.values() if exchange in exchanges}


_READ = {
    **dict.fromkeys(_SAYS, Consumers._says),
    "disconnected": Consumers._disconnects,
    "left": Consumers._leaves,
    "received": Consumers._receives,
    "revoked": Consumers._revokes,
}
