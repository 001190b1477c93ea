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
    SUPERVISOR = "what starts the worker"


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
    conditions: str  # pools, signals, versions, and what has to be so besides
    pages: tuple[str, ...]
    evidence: Mapping[str, Runs] = field(default_factory=dict)
    default: str = "`{}`"  # the defaults of `asked`, in their order
    task_options: tuple[str, ...] = ()  # attributes of a task that go with it

    @property
    def asked(self) -> tuple[str, ...]:
        """The names whose defaults somebody installed can tell."""
        return self.names + self.task_options


def defaults(server: "RedisServer") -> dict[str, str]:
    """What each setting is when nobody sets it: asked of Celery, of kombu and of `server`."""
    # Here, as whoever only reads the table needs neither.
    from celery import Task
    from celery.app.defaults import DEFAULTS
    from kombu.transport.redis import Channel

    with server.client() as client:
        found = {
            Where.CELERY: {name: DEFAULTS[name] for name in names_in(Where.CELERY)},
            Where.TRANSPORT: {name: getattr(Channel, name) for name in names_in(Where.TRANSPORT)},
            Where.SERVER: client.config_get(*names_in(Where.SERVER)),
        }
    options = {name: getattr(Task, name) for row in SETTINGS for name in row.task_options}
    parts = (*found.values(), options)
    return {name: str(value) for part in parts for name, value in part.items()}


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


def _way_out(value: str, *ways: str) -> Runs:
    return Runs("restart_ways_out", value, tuple({"way_out": way} for way in ways))


_SWEEPS = "prefork, threads, solo between tasks; gevent and eventlet never sweep while they run"

SETTINGS = [
    Setting(
        "`task_acks_late = True`",
        ("task_acks_late",),
        Where.CELERY,
        prevents="a worker is killed while it runs a task, and the task is lost: {lost}",
        costs="the task runs again: {again}; killed after its effect, that counts twice: "
        "{repeated}; a cut connection repeats it, too: {cut}",
        evidence={
            "lost": _worker_killed(_RUNNING, "fate == 'lost'", _EARLY, _LATE),
            "again": _worker_killed(_RUNNING, "starts > 1", _LATE),
            "repeated": _worker_killed(_DONE, "charged == 2", _LATE),
            "cut": Runs(
                "connection_breaks",
                "duplicated > 0",
                ({"fault": "connections cut", "pool": "prefork", "ack": "late ack"},),
            ),
            "child": _child_killed(_RUNNING, "fate == 'failed'", _LATE),
        },
        conditions="the whole worker dies; with its child alone the task fails: {child}. "
        "Solo acknowledges late anyway",
        pages=("02_crash_a_worker", "04_restart_the_broker"),
    ),
    Setting(
        "`task_retry_on_worker_lost = True`",
        ("task_retry_on_worker_lost",),
        Where.CELERY,
        task_options=("max_retries", "default_retry_delay"),
        default="`{}`; `max_retries` {}, `default_retry_delay` {} s",
        prevents="a task fails with its child: {failed}",
        costs="it runs again after the delay; killed after its effect, that counts twice: "
        "{repeated}",
        evidence={
            "failed": _child_killed(_RUNNING, "fate == 'failed'", _EARLY, _RETRY),
            "repeated": _child_killed(_DONE, "charged == 2", _RETRY),
            "whole": _worker_killed(_RUNNING, "fate == 'lost'", _RETRY),
        },
        conditions="from Celery 5.7; prefork, a child dies; with the whole worker an early-acked "
        "task is lost all the same: {whole}",
        pages=("02_crash_a_worker",),
    ),
    Setting(
        "`task_reject_on_worker_lost = True`",
        ("task_reject_on_worker_lost",),
        Where.CELERY,
        prevents="a task fails with its child: {failed}",
        costs="a task that kills its child comes back until somebody removes it: {poison}, seen "
        "for {seconds}",
        evidence={
            "failed": _child_killed(_RUNNING, "fate == 'failed'", _LATE, _REJECT),
            "poison": _chord("poison pill, task_reject_on_worker_lost", [""], "stuck"),
            "seconds": Runs(
                "chord_cases",
                "seconds",
                ({"case": "poison pill, task_reject_on_worker_lost", "fix": ""},),
                "median",
                " s",
            ),
        },
        conditions="prefork, a child dies; with late ack",
        pages=("02_crash_a_worker",),
    ),
    Setting(
        "a supervisor that never gives up (systemd: `Restart=always`, `StartLimitIntervalSec=0`)",
        (),
        Where.SUPERVISOR,
        default="nobody",
        prevents="Redis restarts, a worker exits, and tasks wait for nobody: {waits}",
        costs="with late ack, what it ran runs again: {again}",
        evidence={
            "waits": _way_out("done < orders", "none", "a supervisor"),
            "again": _way_out("starts > done", "a supervisor"),
        },
        conditions="Celery 5.7.0, a worker that holds a message; what it held returns after the "
        "visibility timeout",
        pages=("04_restart_the_broker",),
    ),
    Setting(
        "`maxmemory-policy noeviction`, and no cache on this server",
        ("maxmemory-policy",),
        Where.SERVER,
        prevents="a cache evicts the queue (`allkeys-lru`): {evicted}",
        costs="when it is full, publishes are refused and by default workers exit: {exits}; a "
        "cache that shared it had {refused} writes a run refused",
        evidence={
            "evicted": Runs(
                "evict_policies",
                "lost > 0",
                ({"policy": "allkeys-lru"}, {"policy": "noeviction"}),
            ),
            "refused": Runs(
                "evict_policies", "cache_writes_refused", ({"policy": "noeviction"},), "median"
            ),
            "exits": Runs(
                "full_redis",
                "not lives",
                ({"ack": "early ack", "broker_channel_error_retry": "False"},),
            ),
        },
        conditions="the cache has moved out first. With `maxmemory 0` the system's OOM killer "
        "ends Redis",
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
        conditions="chords; their counters expire, so `volatile-lru` evicts them, too",
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
        conditions="on a server that runs, first `CONFIG SET appendonly yes`: a restart with the "
        "line alone loses all",
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
        costs="what is held longer runs again, beside itself",
        evidence={
            "late": _chord(
                "worker killed, late ack, default visibility timeout",
                ["", "visibility timeout of 3 s"],
                "late",
            ),
        },
        conditions=f"{_SWEEPS}: run one prefork worker beside them, on an unused queue. With "
        "chords and late ack, not under half a minute",
        pages=("05_run_it_twice", "06_hang_a_chord"),
    ),
    Setting(
        "`unacked_restore_interval = 1`, `unacked_restore_throttle = 1`",
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
        costs="the worker stops that much later whenever a task runs, and acknowledges nothing "
        "meanwhile; an early-acked task that takes longer is lost",
        evidence={"hung": _chord("cold shutdown, early ack", ["", "worker_soft_shutdown_timeout"])},
        conditions="SIGQUIT, or SIGTERM where `REMAP_SIGTERM` is `SIGQUIT`; the platform's grace "
        "period is the timeout and 5 s",
        pages=("02_crash_a_worker", "06_hang_a_chord"),
    ),
    Setting(
        "`result_backend_always_retry = True`, up to `result_backend_max_retries`",
        ("result_backend_always_retry", "result_backend_max_retries"),
        Where.CELERY,
        default="`{}`, `{}`",
        prevents="a chord hangs when the results are away for a moment: {hung}",
        costs="meanwhile its child waits, by default for ever",
        evidence={
            "hung": _chord(
                "result server away while a part ends", ["", "result_backend_always_retry"]
            ),
        },
        conditions="the results come back as they were",
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
        conditions="results in Redis",
        pages=("06_hang_a_chord",),
    ),
]
