"""Messages of a killed worker, and how often anybody looks for them."""

from typing import Any

from helpers import Stack
from helpers.faults import kill_between_sweeps
from helpers.worker import Worker

EVERY_SECOND = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
HELD = """
@app.task(acks_late=True, ignore_result=True)
def held():
    time.sleep(600)
"""


def strand(stack: Stack, shop: Any, worker: Worker, messages: int) -> set[str]:
    """Leave messages in `unacked`, whose worker gets `SIGKILL`. Their task ids."""
    ids = {shop.held.delay().id for _ in range(messages)}
    stack.wait_until(lambda: ids <= {entry.task_id for entry in stack.redis.unacked()}, "held")
    kill_between_sweeps(stack, worker)
    return ids


def sweeps(stack: Stack) -> int:
    """How often anybody looked for old messages; `stack.redis.unacked` counts as one, too.

    No other command of a worker is `ZRANGE` (`kombu/transport/redis.py: QoS.restore_visible`).
    """
    with stack.redis.client() as client:
        return int(client.info("commandstats").get("cmdstat_zrange", {}).get("calls", 0))
