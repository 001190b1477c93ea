"""The names of kombu's keys in Redis, as the transport options of an application make them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from kombu.transport.redis import Channel

# Field here: option of `broker_transport_options`, and attribute of `Channel`.
OPTIONS = {
    "prefix": "global_keyprefix",
    "sep": "sep",
    "steps": "priority_steps",
    "unacked": "unacked_key",
    "index": "unacked_index_key",
    "mutex": "unacked_mutex_key",
}


@dataclass(frozen=True)
class KeyNames:
    """What one kind of application calls its keys (`kombu/transport/redis.py: Channel`)."""

    prefix: str = Channel.global_keyprefix
    sep: str = Channel.sep
    steps: tuple[int, ...] = tuple(Channel.priority_steps)
    unacked: str = Channel.unacked_key
    index: str = Channel.unacked_index_key
    mutex: str = Channel.unacked_mutex_key

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From the application's `broker_transport_options`; what they leave out is kombu's."""
        given = {field: options[name] for field, name in OPTIONS.items() if name in options}
        if "steps" in given:
            given["steps"] = tuple(given["steps"])
        return cls(**given)

    def key(self, name: str) -> str:
        """The key behind a name, such as that of `unacked`."""
        return self.prefix + name

    def queue(self, key: str, known: Collection[str]) -> tuple[str, int]:
        """The queue and the priority of a list (`Channel._q_for_pri`).

        One queue is a list for each step of priorities. `known` are names of queues: with a `sep`
        such as ":" a queue can be called like a list of another one.
        """
        name = key.removeprefix(self.prefix)
        queue, sep, step = name.rpartition(self.sep)
        # Step 0 is the list without a number.
        if sep and name not in known and step in {str(own) for own in self.steps if own}:
            return queue, int(step)
        return name, 0

    def bound(self, binding: str) -> str:
        """The queue of a binding: routing key, pattern and queue (`Channel._queue_bind`).

        Only a topic has a pattern. Without one two `sep` stand before the queue, which may have one
        in its name.
        """
        _, double, queue = binding.rpartition(2 * self.sep)
        return queue if double else binding.rpartition(self.sep)[2]


def of_key(
    key: str, kinds: Collection[KeyNames], known: Mapping[KeyNames, Collection[str]]
) -> tuple[str, str, int]:
    """Prefix, queue and priority of a list, of whichever application it is.

    The longest prefix that fits says whose it is. `known` are names of queues by application. Where
    several have the same prefix, one may know for a priority what is a name to the others.
    """
    fitting = [kind for kind in kinds if key.startswith(kind.prefix)] or [KeyNames()]
    longest = max(len(kind.prefix) for kind in fitting)
    own = [kind for kind in fitting if len(kind.prefix) == longest]
    queue, priority = max(
        (kind.queue(key, known.get(kind, ())) for kind in own), key=lambda q: q[1]
    )
    return own[0].prefix, queue, priority
