"""One drawn application, its load and what breaks it: all that a run depends on, as a literal."""

import ast
import random
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any, Self

GREEN = ("gevent", "eventlet")
POOLS = ("prefork", "prefork", "threads", "solo", *GREEN)
TO_ALL = "to_all"  # a broadcast
QUEUES = ("celery", "mail", "news.today", "a:3")
FAULTS = (
    "kill worker",
    "kill child",
    "SIGTERM",
    "SIGQUIT",
    "freeze",
    "cut connections",
    "restart broker",
    "cancel consumer",
    "add consumer",
    "revoke",
    "purge",
    "delete unacked",
    "SIGTERM to the group",
)
# At the moment "before" they come before a worker starts, the others right after.
WITHOUT_WORKERS = ("restart broker", "revoke", "purge", "delete unacked")
MOMENTS = ("before", "held", "running", "after")
FAR = 300  # seconds of a countdown that does not come due in a run

# The lost child of a pool is noticed after 10 to 16 seconds: too slow for a quick run.
SLOW = ("kill child",)


def green_pools() -> tuple[str, ...]:
    """The pools of green threads that are installed here."""
    return tuple(pool for pool in GREEN if find_spec(pool))


@dataclass(frozen=True)
class Task:
    """One publish. `kind` is what becomes of it where nothing is broken."""

    kind: str = "ok"  # ok, fail, retry, limit, ignore, broadcast, unknown, ...
    seconds: float = 0.1
    late: bool = False
    countdown: float = 0
    queue: str = "celery"
    priority: int | None = None


@dataclass(frozen=True)
class Draw:
    """What one run is made of."""

    options: dict[str, Any] = field(default_factory=dict)
    conf: dict[str, Any] = field(default_factory=dict)
    pools: tuple[str, ...] = ("prefork",)  # of each worker
    concurrency: int = 1
    consumed: tuple[str, ...] = ("celery",)
    tasks: tuple[Task, ...] = (Task(),)
    published_first: bool = False
    faults: tuple[str, ...] = ()
    moment: str = "running"
    offset: float = 0.0  # seconds from the moment to the fault, and to the next
    take_over: bool = False  # another worker starts after the fault
    foreign: int = 0  # messages that are no tasks
    foreign_queue: str = "somebody"  # which nobody consumes
    foreign_held: bool = False  # somebody else took the first and has not acknowledged it

    @property
    def broadcasts(self) -> bool:
        """Whether any task is for all workers."""
        return any(task.queue == TO_ALL for task in self.tasks)

    @property
    def literal(self) -> str:
        """As text that `of` reads, without what is left as it is by default."""
        plain = {name: value for name, value in asdict(self).items() if value != _PLAIN[name]}
        if "tasks" in plain:
            plain["tasks"] = [
                {name: value for name, value in task.items() if value != _TASK[name]}
                for task in plain["tasks"]
            ]
        return repr(plain)

    @classmethod
    def of(cls, literal: str) -> Self:
        """From what `literal` said."""
        said = ast.literal_eval(literal)
        if "tasks" in said:
            said["tasks"] = tuple(Task(**task) for task in said["tasks"])
        for name in ("pools", "consumed", "faults"):
            if name in said:
                said[name] = tuple(said[name])
        return cls(**said)


_PLAIN, _TASK = asdict(Draw()), asdict(Task())


def draw(seed: str, left_out: Collection[str] = ()) -> Draw:
    """The draw of a seed. `left_out` names pools and faults that are not to occur."""
    chance = random.Random(seed)
    kept = [pool for pool in POOLS if pool not in left_out]
    pools = tuple(chance.choices(kept, k=chance.choice((1, 1, 2))))
    faults = [fault for fault in FAULTS if fault not in left_out]
    if "prefork" not in pools and "kill child" in faults:
        faults.remove("kill child")
    queues = chance.sample(QUEUES, chance.choice((1, 1, 2, 3)))
    options = _options(chance)
    if options.get("sep") == ":":
        # kombu takes what it pops from "a:3" for a message of "a", and puts it back for ever.
        queues = [queue.replace(":", ".") for queue in queues]
    published_first = chance.random() < 0.4
    tasks = [
        _task(chance, queues, pools, published_first) for _ in range(chance.choice((1, 3, 5, 8)))
    ]
    broken = tuple(chance.choices(faults, k=chance.choice((0, 1, 1, 1, 1, 1, 2, 2))))
    moment = chance.choice(MOMENTS)
    return Draw(
        options=options,
        conf=_conf(chance),
        pools=pools,
        concurrency=chance.choice((1, 1, 2, 3)),
        consumed=tuple(queues[:-1] if len(queues) > 1 and chance.random() < 0.2 else queues),
        tasks=tuple(tasks),
        published_first=published_first,
        faults=broken,
        moment=moment,
        offset=round(chance.choice((0, 0, chance.uniform(0, 0.5))), 3),
        take_over=chance.random() < 0.3,
        foreign=chance.choice((0, 0, 0, 2)),
        foreign_queue=chance.choice(("somebody", queues[0])),
        foreign_held=chance.random() < 0.5,
    )


def _options(chance: random.Random) -> dict[str, Any]:
    choices: dict[str, tuple[Any, ...]] = {
        "global_keyprefix": ("shop:", "a_", "{tag}"),
        "sep": (":", "|"),
        "priority_steps": ([0, 5], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0]),
        "unacked_key": ("in_hand",),
        "unacked_index_key": ("in_hand_since",),
        "unacked_mutex_key": ("sweeping",),
        "polling_interval": (1,),
    }
    options = {
        name: chance.choice(values) for name, values in choices.items() if chance.random() < 0.25
    }
    match chance.choice(("short", "long", "default")):
        case "short":
            options["visibility_timeout"] = chance.choice((1, 2, 3, 6))
            options |= {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        case "long":
            options["visibility_timeout"] = 600
            options |= {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    return options


def _conf(chance: random.Random) -> dict[str, Any]:
    choices: dict[str, tuple[Any, ...]] = {
        "task_protocol": (1,),
        "worker_prefetch_multiplier": (1, 10),
        "task_reject_on_worker_lost": (True,),
        "worker_cancel_long_running_tasks_on_connection_loss": (True,),
        "task_acks_on_failure_or_timeout": (False,),
        "task_track_started": (True,),
        "worker_max_tasks_per_child": (1,),
        "worker_disable_prefetch": (True,),
        "worker_soft_shutdown_timeout": (1,),
        "worker_eta_task_limit": (1,),
        "task_compression": ("gzip",),
        "task_default_priority": (6,),
        "worker_deduplicate_successful_tasks": (True,),
    }
    return {
        name: chance.choice(values) for name, values in choices.items() if chance.random() < 0.2
    }


def _task(
    chance: random.Random, queues: list[str], pools: tuple[str, ...], published_first: bool
) -> Task:
    kinds = ["ok"] * 8 + ["fail", "retry", "unknown", "ignore", "refused"]
    kinds += ["broadcast", "broadcast", "misrouted"]
    kinds += ["expired"] * published_first + ["limit"] * (set(pools) == {"prefork"})
    kind = chance.choice(kinds)
    return Task(
        kind=kind,
        seconds=chance.choice((0.0, 0.1, 0.3, 1.2)),
        late=chance.random() < 0.5,
        countdown=chance.choice((0, 0, 0, 0, 0.5, FAR)),
        queue=TO_ALL if kind in ("broadcast", "misrouted") else chance.choice(queues),
        priority=chance.choice((None, None, 0, 3, 9)),
    )
