"""The settings that the course has measured, one row each: what they prevent, cost, and hold for.

Data only: helpers/authoring/settings_page.py makes notebooks/settings.md from it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from helpers.brokers.redis import RedisServer


class Where(StrEnum):
    """Where a setting stands."""

    CELERY = "Celery's configuration"
    TRANSPORT = "broker_transport_options"
    SERVER = "redis.conf"


@dataclass(frozen=True)
class Runs:
    """What to take from the runs of a stored grid, in each of its arms.

    `value` is an expression of the grid's columns; an arm chooses runs by what its columns hold.
    """

    grid: str
    value: str
    arms: tuple[Mapping[str, str], ...]  # without the setting, then with it
    shown: Literal["how often", "median", "most"] = "how often"
    unit: str = ""


@dataclass(frozen=True)
class Setting:
    """One row of the settings page. `{words}` in its texts stand for an entry of `evidence`."""

    shown: str  # as somebody would write it
    names: tuple[str, ...]
    where: Where
    prevents: str
    costs: str
    pages: tuple[str, ...]
    evidence: Mapping[str, Runs] = field(default_factory=dict)
    default: str = "`{}`"  # the defaults of `names`, in their order
    conditions: str = ""  # pools, signals, versions; empty: nothing is known beyond the runs


def defaults(server: "RedisServer") -> dict[str, str]:
    """What each setting is when nobody sets it: asked of Celery, of kombu and of `server`."""
    # Here, as whoever only reads the table needs neither.
    from celery.app.defaults import DEFAULTS
    from kombu.transport.redis import Channel

    with server.client() as client:
        found = {
            Where.CELERY: {name: DEFAULTS[name] for name in names_in(Where.CELERY)},
            Where.TRANSPORT: {name: getattr(Channel, name) for name in names_in(Where.TRANSPORT)},
            Where.SERVER: client.config_get(*names_in(Where.SERVER)),
        }
    return {name: str(value) for part in found.values() for name, value in part.items()}


def names_in(where: Where) -> list[str]:
    """The names of all settings that stand there."""
    return [name for setting in SETTINGS if setting.where == where for name in setting.names]


_RUNNING, _DONE = "running", "effect done"
_EARLY, _LATE = "early ack (default)", "late ack"
_REJECT, _RETRY = "late ack + reject on worker lost", "early ack + retry on worker lost"


def _killed(who: str, moment: str, value: str, *settings: str) -> Runs:
    arms = ({"process": who, "moment": moment, "setting": setting} for setting in settings)
    return Runs("crash_worker", value, tuple(arms))


def _worker_killed(moment: str, value: str, *settings: str) -> Runs:
    return _killed("whole worker killed", moment, value, *settings)


def _child_killed(moment: str, value: str, *settings: str) -> Runs:
    return _killed("pool child killed", moment, value, *settings)


def _chord(case: str, fixes: Iterable[str], outcome: str = "hung") -> Runs:
    arms = ({"backend": "Redis", "case": case, "fix": fix} for fix in fixes)
    return Runs("chord_cases", f"outcome == '{outcome}'", tuple(arms))


def _away(value: str, *settings: str) -> Runs:
    arms = ({"end": "machine lost", "setting": setting} for setting in settings)
    return Runs("persistence", value, tuple(arms))


def _sent(value: str, *settings: str) -> Runs:
    arms = ({"case": "broker refuses for 3 s", "setting": setting} for setting in settings)
    return Runs("producer_outage", value, tuple(arms))


_SWEEPS = "prefork, threads or solo, as gevent and eventlet do not sweep while they run"
_CHILD = "prefork, as no other pool has a child to lose"

SETTINGS = [
    Setting(
        "`task_acks_late=True`",
        ("task_acks_late",),
        Where.CELERY,
        prevents="a task is lost with its worker: {lost}",
        costs="a kill after its effect repeats it: {repeated}",
        evidence={
            "lost": _worker_killed(_RUNNING, "fate == 'lost'", _EARLY, _LATE),
            "repeated": _worker_killed(_DONE, "charged == 2", _LATE),
        },
        conditions="the kill hits while the task runs; solo acknowledges late anyway",
        pages=("02_crash_a_worker",),
    ),
    Setting(
        "`task_retry_on_worker_lost=True`, `max_retries`",
        ("task_retry_on_worker_lost",),
        Where.CELERY,
        prevents="a task fails with its child: {failed}",
        costs="repeats it too, after a delay: {repeated}",
        evidence={
            "failed": _child_killed(_RUNNING, "fate == 'failed'", _EARLY, _RETRY),
            "repeated": _child_killed(_DONE, "charged == 2", _RETRY),
        },
        conditions=_CHILD,
        pages=("02_crash_a_worker",),
    ),
    Setting(
        "`task_reject_on_worker_lost=True` with late ack",
        ("task_reject_on_worker_lost",),
        Where.CELERY,
        prevents="a task fails with its child: {failed}",
        costs="a task that kills its child comes back for ever: {poison}",
        evidence={
            "failed": _child_killed(_RUNNING, "fate == 'failed'", _LATE, _REJECT),
            "poison": _chord("poison pill, task_reject_on_worker_lost", [""], "stuck"),
        },
        conditions=_CHILD,
        pages=("02_crash_a_worker",),
    ),
    Setting(
        "`maxmemory-policy noeviction`, and no cache on this server",
        ("maxmemory-policy",),
        Where.SERVER,
        prevents="a cache evicts the queue (`allkeys-lru`): {evicted}",
        costs="a full server refuses writes: of a cache that shared it, {refused} a run",
        evidence={
            "evicted": Runs(
                "evict_policies",
                "lost > 0",
                ({"policy": "allkeys-lru"}, {"policy": "noeviction"}),
            ),
            "refused": Runs(
                "evict_policies", "cache_writes_refused", ({"policy": "noeviction"},), "median"
            ),
        },
        pages=("03_evict_the_queue",),
    ),
    Setting(
        "`result_backend` on a server without a cache",
        ("result_backend",),
        Where.CELERY,
        prevents="a cache evicts the counter of a chord, which hangs: {hung}",
        costs="one more server",
        evidence={
            "hung": _chord("keys evicted, volatile-lru", ["", "results on a server of their own"]),
        },
        pages=("06_hang_a_chord",),
    ),
    Setting(
        "`appendonly yes`, `appendfsync always`",
        ("appendonly", "appendfsync"),
        Where.SERVER,
        default="`{}`, `{}`",
        prevents="a lost machine takes accepted tasks along: {lost}; results restart empty: {hung}",
        costs="a publish takes {longer} longer",
        evidence={
            "lost": _away("waiting_after < waiting_before", "nothing", "AOF always"),
            "hung": _chord("result server restarts empty", ["", "appendonly yes"]),
            "longer": Runs(
                "persistence_cost",
                "100 * ratio - 100",
                ({"setting": "AOF always"},),
                "median",
                " %",
            ),
        },
        pages=("04_restart_the_broker", "06_hang_a_chord"),
        conditions="a server that runs first gets `CONFIG SET appendonly yes`, as a restart with "
        "the new line alone starts empty",
    ),
    Setting(
        "`task_publish_retry_policy` with more `max_retries`",
        ("task_publish_retry_policy",),
        Where.CELERY,
        default="`max_retries` 3",
        prevents="Redis is away for three seconds, and `.delay()` raises: {raised}",
        costs="the caller waits for as long as it is away",
        evidence={
            "raised": _sent("did == 'raised'", "defaults", "task_publish_retry_policy: 60 times"),
        },
        conditions="a broker that refuses; one that hangs takes its callers along",
        pages=("04_restart_the_broker",),
    ),
    Setting(
        "`visibility_timeout` a little above the longest task plus its longest wait",
        ("visibility_timeout",),
        Where.TRANSPORT,
        default="`{}` s",
        prevents="what a dead worker held comes back late: {late}",
        costs="a message that is held longer runs again, beside itself",
        evidence={
            "late": _chord(
                "worker killed, late ack, default visibility timeout",
                ["", "visibility timeout of 3 s"],
                "late",
            ),
        },
        conditions=f"{_SWEEPS}; with chords and late ack, above 21 s",
        pages=("05_run_it_twice", "06_hang_a_chord"),
    ),
    Setting(
        "`unacked_restore_interval=1`, `unacked_restore_throttle=1`",
        ("unacked_restore_interval", "unacked_restore_throttle"),
        Where.TRANSPORT,
        default="`{}` s, `{}`",
        prevents="a slow return after a crash, with a timeout of {timeout}: up to {return}",
        costs="each worker looks once a second",
        evidence={
            "timeout": Runs("redelivery_delay", "visibility_timeout", ({},), "most", " s"),
            "return": Runs(
                "redelivery_delay",
                "seconds",
                ({"cadence": "default"}, {"cadence": "one second"}),
                "most",
                " s",
            ),
        },
        conditions=f"kombu from 5.7 on; {_SWEEPS}",
        pages=("05_run_it_twice",),
    ),
    Setting(
        "`worker_soft_shutdown_timeout`",
        ("worker_soft_shutdown_timeout",),
        Where.CELERY,
        default="`{}` s",
        prevents="a cold shutdown takes a part of a chord along, which hangs: {hung}",
        costs="the worker stops up to that much later",
        evidence={"hung": _chord("cold shutdown, early ack", ["", "worker_soft_shutdown_timeout"])},
        conditions="SIGQUIT, or SIGTERM with `REMAP_SIGTERM=SIGQUIT`",
        pages=("02_crash_a_worker", "06_hang_a_chord"),
    ),
    Setting(
        "`result_backend_always_retry=True`",
        ("result_backend_always_retry",),
        Where.CELERY,
        prevents="a chord hangs when the results are away for a moment: {hung}",
        costs="the worker waits for them",
        evidence={
            "hung": _chord(
                "result server away while a part ends", ["", "result_backend_always_retry"]
            ),
        },
        pages=("06_hang_a_chord",),
    ),
    Setting(
        "`result_chord_expires` above the longest header",
        ("result_chord_expires",),
        Where.CELERY,
        prevents="a chord hangs when `result_expires` is short: {hung}",
        costs="its keys stay longer",
        evidence={
            "hung": _chord("result_expires shorter than a part", ["", "result_chord_expires"])
        },
        pages=("06_hang_a_chord",),
    ),
]
