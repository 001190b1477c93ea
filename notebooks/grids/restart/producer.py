"""A producer of its own: it sends an order, waits for a line, sends another, says what it saw.

`python producer.py SETTINGS` where SETTINGS is JSON: url, backend, id, conf, options.
"""

import json
import sys
import time
from typing import Any

from celery import Celery


def main(url: str, backend: str | None, id: str, conf: dict[str, Any], options: Any) -> None:
    """Speak on standard output: ready, then what became of the publish, as JSON."""
    app = Celery("shop", broker=url, backend=backend)
    app.conf.update(conf)

    @app.task(name="shop.charge")
    def charge(order: int) -> int:
        return order

    charge.apply_async((0,), ignore_result=True)  # a producer that has a connection
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    try:
        charge.apply_async((1,), task_id=id, **options)
        answer = {"did": "returned", "error": ""}
    except Exception as error:
        answer = {"did": "raised", "error": type(error).__name__}
    print(json.dumps({**answer, "seconds": time.monotonic() - began}), flush=True)
    sys.stdin.readline()  # its objects may block when they end: it is killed


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
