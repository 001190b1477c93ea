"""What a stack asks of a broker. One file a broker; each knows its own names and addresses.

How long a worker leaves a message in its hands, and which queues it consumes, is not asked of the
broker: the witness asks the running worker, and writes it into its `ready` event.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from helpers.fates import Unacked
from helpers.process import Process


class Broker(Protocol):
    """What `Stack`, `settle` and the workers need. `RedisServer` is the first."""

    @property
    def name(self) -> str:
        """What figures and errors call it."""

    @property
    def broker_url(self) -> str:
        """What Celery's setting of this name is for this broker."""

    @property
    def broker_transport_options(self) -> Mapping[str, Any]:
        """Options without which an application cannot reach it, added to its own."""

    @property
    def processes(self) -> Sequence[Process]:
        """Its servers, which end with the stack. A broker may have none."""

    @property
    def version(self) -> str:
        """Product and version, for stored runs."""

    def learn(self, transport_options: Mapping[str, Any]) -> None:
        """Be told how an application that uses it is configured: names may depend on it."""

    def queued(self) -> Mapping[str, Sequence[str | None]]:
        """Ids of the tasks whose messages wait, by the queue that a worker consumes.

        With the prefix of the application, where it gives its names one: two may use one broker.
        None stands for a message that is no task: it is somebody else's. Raises BrokerSilent when
        it does not answer.
        """

    def unacked(self) -> Sequence[Unacked]:
        """What workers took and have not acknowledged, as far as the broker knows of it.

        A message that is no task has no id. Raises BrokerSilent when the broker does not answer.
        """
