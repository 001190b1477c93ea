"""Lab 03, evict the queue."""

import json
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from celery.signals import before_task_publish

from helpers.brokers.redis import RedisServer
from helpers.checks.cells import given
from helpers.checks.exercise import Answer, Evidence, Exercise, Misconception, Wrong
from helpers.errors import StackError
from helpers.exercises.tools import load_function, member, open_shop, rows
from helpers.faults import fill_cache
from helpers.process import poll
from helpers.stack import Stack

MB = 1024 * 1024
PAGE = 10_000  # bytes of a page in the cache
PHOTO = "x" * 250_000

DESIGN: dict[str, Any] = given("lab_03", "share_the_memory")
DESIGN_SHOP = """\
from celery import Celery

app = Celery("shop")


@app.task
def price(order):
    return 10 * order


@app.task(ignore_result=True)
def charge(order, photo=""):
    pass
"""
SETTINGS = {"maxmemory", "maxmemory-policy"}
MOST_MEMORY = 10 * MB
ORDERS, RESULTS, FLOOD, PAGES = 100, 20, 40, 1500
LEAST_PAGES = 150


def _check_design(answer: Answer) -> None:
    if not isinstance(answer, dict) or set(answer) != set(DESIGN):
        raise StackError(f"the design must have the keys {', '.join(DESIGN)}, and no other")
    servers = {name: own for name, own in answer.items() if isinstance(own, dict)}
    for name, own in servers.items():
        if not set(own) <= SETTINGS or not all(isinstance(value, str) for value in own.values()):
            raise StackError(f"{name} takes {' and '.join(sorted(SETTINGS))}, both as text")
    if "broker" not in servers:
        raise StackError('broker must be a server: {"maxmemory": ..., "maxmemory-policy": ...}')
    for name in set(answer) - set(servers):
        server, _, database = str(answer[name]).partition("/")
        if server not in servers or not re.fullmatch(r"\d|1[0-5]", database):
            raise StackError(
                f"{name} must be a server, or a place on one of {', '.join(servers)}, "
                'such as "broker/1" (the number is 0 to 15)'
            )


def _four_loads(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Results, then 100 orders that wait, then a cache that fills, then a flood of orders."""
    _check_design(answer)
    (here / "shop.py").write_text(DESIGN_SHOP)
    own = answer["results"] if isinstance(answer["results"], dict) else "same"
    stack = Stack(here, redis=answer["broker"], backend=own)
    servers = {"broker": stack.redis, "results": stack.results}
    if isinstance(answer["cache"], dict):
        servers["cache"] = stack.start_server("cache", answer["cache"])
    used = [servers[name] for name in answer if isinstance(answer[name], dict)]
    results, results_db = _place(answer, servers, "results")
    cache, cache_db = _place(answer, servers, "cache")
    stack.backend_url = results.url(results_db)
    memory = [int(server.client().config_get("maxmemory")["maxmemory"] or 0) for server in used]
    worker = stack.start_worker("--concurrency=1", timeout=8)
    shop = stack.load("shop")
    priced = [shop.price.delay(order) for order in range(RESULTS)]
    for result in priced:
        stack.wait_for("finished", result)
    worker.kill()
    orders = [_publish(shop.charge, order) for order in range(ORDERS)]
    time.sleep(1.5)  # the LRU clock of Redis ticks once a second
    pages = cache.client(cache_db)
    refused = fill_cache(pages, PAGES, size=PAGE, seconds_to_live=600)
    for order in range(FLOOD):
        _publish(shop.charge, ORDERS + order, photo=PHOTO)
    refused += fill_cache(pages, 200, size=PAGE, seconds_to_live=600)
    kept = sum(1 for _ in pages.scan_iter("page:*", count=1000))
    fates = stack.settle(timeout=2, quiet=0.3).table["fate"]
    waiting = [order for order in orders if order and fates[order] == "queued"]
    flood = fates[~fates.index.isin(orders)]
    keys = [f"celery-task-meta-{result.id}" for result in priced]
    return stack, {
        "memory": memory,
        "cache_refused": refused,
        "pages": kept,
        "results": results.client(results_db).exists(*keys),
        "orders_waiting": len(waiting),
        "flood_lost": int(flood.eq("lost").sum()),
    }


def _place(answer: Answer, servers: dict[str, RedisServer], name: str) -> tuple[RedisServer, int]:
    """The server and the database of `name`, such as of "broker/1"."""
    if isinstance(answer[name], dict):
        return servers[name], 0
    server, _, database = answer[name].partition("/")
    return servers[server], int(database)


def _publish(task: Any, *args: Any, **options: Any) -> str | None:
    """The id, or None when the broker refused."""
    with suppress(Exception):
        return str(task.delay(*args, **options).id)
    return None


def _judge_design(evidence: Evidence) -> Wrong | None:
    facts = evidence.facts
    seen = []
    if facts["orders_waiting"] < ORDERS:
        seen.append(f"{facts['orders_waiting']} of the {ORDERS} orders still wait")
    if facts["flood_lost"]:
        seen.append(f"{facts['flood_lost']} accepted orders of the flood are gone")
    if facts["results"] < RESULTS:
        seen.append(f"{facts['results']} of the {RESULTS} results are left")
    if facts["cache_refused"]:
        seen.append(f"the cache was refused {facts['cache_refused']:,} writes")
    elif facts["pages"] < LEAST_PAGES:
        seen.append(f"the cache holds {facts['pages']} pages")
    if 0 in facts["memory"]:
        seen.append("a server has no maxmemory: it takes what the machine has")
    if sum(facts["memory"]) > MOST_MEMORY:
        seen.append(f"the servers may take {sum(facts['memory']) / MB:.1f} MB")
    if not seen:
        return None
    return Wrong(
        f"{ORDERS} orders wait, no accepted order is gone, {RESULTS} results are left, the cache "
        f"is refused nothing and holds {LEAST_PAGES} pages at least, and maxmemory is set and "
        "10 MB at most for all servers together",
        "; ".join(seen),
    )


def _on_broker(answer: Answer) -> bool:
    return str(answer["cache"]).startswith("broker/")


def _policy(answer: Answer) -> str:
    """The broker's."""
    return str(answer["broker"].get("maxmemory-policy", "noeviction"))


SHARE = Exercise(
    name="share_the_memory",
    title="share the memory",
    given=DESIGN,
    experiment=_four_loads,
    judge=_judge_design,
    count=lambda evidence: ORDERS - evidence.facts["orders_waiting"],
    hints=(
        "Go through the four loads one by one. Who needs memory that is never taken away, and who "
        "must never be refused? Can one server promise both?",
        "`maxmemory` and its policy belong to a server, not to a database. A flood of orders fills "
        "the broker, whatever else is on it: then it should refuse, and drop nothing.",
        'The broker, with the results, takes "noeviction". The cache takes a server of its own '
        'that evicts. 5mb and 5mb are 10 MB: "cache": {"maxmemory": "5mb", ...}',
    ),
    misconceptions=(
        Misconception(
            "noeviction keeps the queue by refusing whoever writes next, the cache too.",
            lambda answer, _: _on_broker(answer) and _policy(answer) == "noeviction",
        ),
        Misconception(
            "maxmemory and its policy belong to the server. Another database number separates "
            "names, not memory.",
            lambda answer, _: _on_broker(answer) and answer["cache"] != DESIGN["cache"],
        ),
        Misconception(
            "each allkeys policy may take any key. allkeys-lfu spares a queue in use, for a while; "
            "a result is written once.",
            lambda answer, evidence: (
                _on_broker(answer)
                and _policy(answer).startswith("allkeys")
                and evidence.facts["results"] < RESULTS
            ),
        ),
        Misconception(
            "volatile-* spares what does not expire. Results do expire, a day after the task.",
            lambda answer, evidence: (
                _policy(answer).startswith("volatile") and evidence.facts["results"] < RESULTS
            ),
        ),
        Misconception(
            "volatile-* lets the orders, which do not expire, take the memory of the pages.",
            lambda answer, _: _on_broker(answer) and _policy(answer).startswith("volatile"),
        ),
        Misconception(
            "more memory moves the moment at which it is full. It does not change what happens "
            "then.",
            lambda _, evidence: (
                not 0 < sum(evidence.facts["memory"]) <= MOST_MEMORY
                and (evidence.facts["orders_waiting"] < ORDERS or evidence.facts["flood_lost"] > 0)
            ),
        ),
        Misconception(
            "a server of its own does not stop eviction. When orders fill it, an allkeys policy "
            "drops results, or the queue itself.",
            lambda answer, _: _policy(answer).startswith("allkeys"),
        ),
        Misconception(
            "a result is no page of a cache: nobody writes it again.",
            lambda answer, _: str(answer["results"]).startswith("cache/"),
        ),
    ),
)


PLACED, ORDER_PHOTO = 20, 100_000


def _full_for_two_seconds(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """No worker runs, and the orders fill the broker. Two seconds later somebody makes room."""
    settings = {"maxmemory": "3mb", "maxmemory-policy": "noeviction"}
    stack = open_shop(here, "charges (number)", redis=settings, shop=answer)
    place_orders = member(stack.load("shop"), "place_orders")
    sizes = []

    def weigh(body: object, **_: object) -> None:
        sizes.append(len(json.dumps(body)))

    before_task_publish.connect(weigh)
    with ThreadPoolExecutor(1) as somebody:
        room = somebody.submit(_make_room, stack)
        place_orders(range(PLACED))
        tampered, raw = room.result()
    # An answer may still be sending, from a thread of its own.
    poll(lambda: len(rows(here, "charges", "number")) >= PLACED, 3, pause=0.1)
    stack.settle(timeout=4, quiet=0.5)
    return stack, {
        "charged": rows(here, "charges", "number"),
        "lightest": min([*sizes, *raw], default=0),
        "tampered": tampered,
    }


def _make_room(stack: Stack) -> tuple[bool, list[int]]:
    """Whether somebody else has made room before, and the sizes of the messages that wait."""

    def nearly_full() -> bool:
        memory = client.info("memory")
        return bool(memory["used_memory"] > 0.9 * memory["maxmemory"])

    with stack.redis.client() as client:
        settings = client.config_get("maxmemory*")
        poll(nearly_full, 5, pause=0.02)
        time.sleep(2)
        tampered = client.config_get("maxmemory*") != settings
        raw = [len(message) for message in client.lrange("celery", 0, -1)]
    stack.redis.config_set("maxmemory", "100mb")
    stack.start_worker("--concurrency=1", app="shop")
    return tampered, raw


def _judge_placed(evidence: Evidence) -> Wrong | None:
    charged = evidence.facts["charged"]
    accepted = evidence.outcome("").accepted
    missing = sum(not charged.get(str(number)) for number in range(PLACED))
    twice = sum(times > 1 for times in charged.values())
    light = evidence.facts["lightest"] < ORDER_PHOTO
    tampered = evidence.facts["tampered"]
    if not missing and not twice and accepted >= PLACED and not light and not tampered:
        return None
    return Wrong(
        f"the broker accepted a task, with its photo, for each of the {PLACED} orders, and each is "
        "charged once",
        f"accepted {accepted}, never charged {missing}, charged more than once {twice}"
        + "; the photo does not travel whole with each order" * light
        + "; somebody has changed the memory of the broker" * tampered,
    )


LOSE = Exercise(
    name="lose_no_order",
    title="lose no order",
    file="shop.py",
    given=given("lab_03", "lose_no_order"),
    experiment=_full_for_two_seconds,
    judge=_judge_placed,
    count=lambda evidence: len(evidence.facts["charged"]),
    hints=(
        "A refused order was never in the broker: only the producer knows of it. What does "
        "`place_orders` do with that knowledge?",
        "Keep what was refused, wait a little, and send it again, until the broker takes it. Send "
        "again only what was refused.",
        "while True:\n    try:\n        charge.delay(...)\n        break\n"
        "    except Exception:\n        time.sleep(0.2)",
    ),
    misconceptions=(
        Misconception(
            "retry and retry_policy are for a broker that cannot be reached. This one answers, and "
            "says no: Celery raises at once.",
            lambda answer, _: "retry_policy" in answer or "retry=True" in answer,
        ),
        Misconception(
            "charging in the shop's own process makes the row, and the customer waits for the "
            "bank. The order never went through the queue.",
            lambda _, evidence: (
                len(evidence.facts["charged"]) == PLACED and evidence.outcome("").accepted < PLACED
            ),
        ),
        Misconception(
            "what the broker accepted before it was full is still in the queue. Sent again, it is "
            "charged again.",
            lambda _, evidence: any(times > 1 for times in evidence.facts["charged"].values()),
        ),
    ),
)


def _six_servers(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Six brokers with a cache, some short of memory. The answer says what goes on in each."""
    (here / "find.py").write_text(answer)
    (here / "shop.py").write_text(DESIGN_SHOP)
    incident = load_function(here / "find.py", "incident")
    evicting = random.choice(["allkeys-lru", "allkeys-random", "volatile-ttl", "volatile-random"])
    healthy, was_full, *others = [
        _broker(here, "healthy", "noeviction", random.randint(30, 90)),
        _broker(here, "was full", "noeviction", 140, report=True),
        _broker(here, "healthy cache", "allkeys-lru", random.randint(30, 90)),
        _broker(here, "evicts", evicting, 500),
        _broker(here, "full", "noeviction", 140, report=True),
        _broker(here, "nothing expires", "volatile-lru", 140, report=True),
    ]
    was_full.redis.config_set("maxmemory", "8mb")
    time.sleep(2.2)  # the clock by which Redis evicts ticks once a second
    stacks = random.sample([healthy, was_full, *others], k=6)
    looks = [_look(stack, incident) for stack in stacks]
    for stack in (was_full, *others):
        stack.close()
    return healthy, {"servers": looks}


def _broker(here: Path, name: str, policy: str, pages: int, report: bool = False) -> Stack:
    """A broker of 3 MB with five orders and a cache. A report of 1 MB makes it more than full."""
    stack = Stack(here, redis={"maxmemory": "3mb", "maxmemory-policy": policy}, name=name)
    charge = stack.load("shop").charge
    for order in range(5):
        charge.delay(order)
    with stack.redis.client() as client:
        # Beside a report nothing expires: volatile-lru then has nothing to evict.
        fill_cache(client, pages, size=PAGE, seconds_to_live=None if report else 600)
        if report:
            # By a small command: of a large one the text alone would be too much.
            client.setrange("report", 1_000_000, "x")
            _publish(charge, 5)
    return stack


def _look(stack: Stack, incident: Callable[[redis.Redis], object]) -> dict[str, Any]:
    """What is true of one server, what the answer says, and whether it kept its hands off."""
    with stack.redis.client() as client:
        memory, evicted = client.info("memory"), client.info("stats")["evicted_keys"]
        full = memory["used_memory"] / memory["maxmemory"]
        truth = "evicts" if evicted else "healthy"
        try:
            client.set("probe", 1)
        except redis.ResponseError:  # OOM command not allowed
            truth = "refuses"
        idle, changes = _traces(client)
        said = str(incident(stack.redis.client()))
        idle_after, changes_after = _traces(client)
    return {
        "case": stack.name,
        "said": said,
        "truth": truth,
        "about": f"{memory['maxmemory_policy']}, {full:.0%} of maxmemory, {evicted} keys evicted",
        "used_queue": idle_after < idle,
        "wrote": changes_after != changes,
    }


def _traces(client: redis.Redis) -> tuple[int, int]:
    """Seconds that the queue was idle (0 if it is gone), and changes since the server's start."""
    idle = client.object("IDLETIME", "celery") or 0
    return idle, client.info("persistence")["rdb_changes_since_last_save"]


def _judge_read(evidence: Evidence) -> Wrong | None:
    servers = evidence.facts["servers"]
    expected = "the right word for each of six servers, from looking alone"
    if any(server["wrote"] for server in servers):
        return Wrong(expected, "your function wrote or removed something: it may only look")
    if any(server["used_queue"] for server in servers):
        return Wrong(expected, "your function used the queue: its idle time fell")
    wrong = [server for server in servers if server["said"] != server["truth"]]
    if not wrong:
        return None
    pairs = [f'said "{one["said"]}", was "{one["truth"]}" ({one["about"]})' for one in wrong]
    return Wrong(expected, f"{len(wrong)} of {len(servers)} wrong: {'; '.join(sorted(pairs))}")


def _misread(case: str, said: str) -> Callable[[Answer, Evidence], bool]:
    def explains(_: Answer, evidence: Evidence) -> bool:
        servers = evidence.facts["servers"]
        return any(one["case"] == case and one["said"] == said for one in servers)

    return explains


READ_THE_MEMORY = Exercise(
    name="read_the_memory",
    title="read the memory",
    file="find.py",
    given=given("lab_03", "read_the_memory"),
    experiment=_six_servers,
    judge=_judge_read,
    count=lambda evidence: sum(one["said"] == one["truth"] for one in evidence.facts["servers"]),
    fates=False,
    hints=(
        "A policy says what a server would do when it is full. `INFO` says what it did, and how "
        "full it is. See `server.info('memory')` and `server.info('stats')`.",
        "Evicted keys are counted in `evicted_keys`. A server without them that uses more than "
        "`maxmemory` refuses.",
        "`used_memory` against `maxmemory`, both in `server.info('memory')`; `evicted_keys` in "
        "`server.info('stats')`. Look at the evictions first.",
    ),
    misconceptions=(
        Misconception(
            "polling LLEN or reading the queue is a use: it changes what Redis evicts next.",
            lambda _, evidence: any(one["used_queue"] for one in evidence.facts["servers"]),
        ),
        Misconception(
            "a policy is what happens when memory is full. This server has room.",
            _misread("healthy cache", said="evicts"),
        ),
        Misconception(
            "a counter of errors tells of the past. This server has room again.",
            _misread("was full", said="refuses"),
        ),
        Misconception(
            "a volatile policy that finds nothing that expires refuses, as noeviction does.",
            _misread("nothing expires", said="evicts"),
        ),
    ),
)

EXERCISES = (SHARE, LOSE, READ_THE_MEMORY)
