"""What each setting of notebooks/settings.md is when nobody sets it, asked of the parts themselves.

Writes defaults.csv beside this file: one row a setting. A second.
"""

from pathlib import Path

import pandas as pd
from celery.app.defaults import DEFAULTS
from kombu.transport.redis import Channel

from helpers import Stack, private_directory
from helpers.trials import provenance

CELERY = ["task_acks_late", "task_reject_on_worker_lost", "task_retry_on_worker_lost"]
CELERY += ["worker_soft_shutdown_timeout", "result_backend", "result_backend_always_retry"]
CELERY += ["result_chord_expires"]
KOMBU = ["visibility_timeout", "unacked_restore_interval", "unacked_restore_throttle"]
SERVER = ["maxmemory-policy", "appendonly"]


def ask() -> list[dict[str, str]]:
    """One row a setting."""
    with Stack(private_directory(), backend=None) as stack:
        defaults = {name: DEFAULTS[name] for name in CELERY}
        defaults |= {name: getattr(Channel, name) for name in KOMBU}
        asked = stack.redis.client().config_get(*SERVER)
        defaults |= {name: asked[name] for name in SERVER}
        return [
            {"setting": name, "default": str(default), **provenance(stack)}
            for name, default in defaults.items()
        ]


def main() -> None:
    pd.DataFrame(ask()).to_csv(Path(__file__).with_suffix(".csv"), index=False)


if __name__ == "__main__":
    main()
