"""Answers to lab 03."""

from typing import Any

from helpers.checks.cells import given
from tests.exercises.answers import Planted

PRODUCER = given("lab_03", "lose_no_order")


def server(policy: str | None = None, maxmemory: str | None = "5mb") -> dict[str, str]:
    """What stands in the redis.conf of one server."""
    lines = {"maxmemory": maxmemory, "maxmemory-policy": policy}
    return {name: value for name, value in lines.items() if value}


def design(broker: Any, cache: Any, results: Any = "broker/1") -> dict[str, Any]:
    return {"broker": broker, "results": results, "cache": cache}


SEND = 'charge.delay(number, photo="x" * 100_000)'
BODY = PRODUCER[PRODUCER.index("    for number in numbers:") :]


def placing(body: str, *imports: str) -> str:
    """The shop with another body of place_orders."""
    needs = "\n".join([*imports, "import sqlite3", "import time\n"])
    return PRODUCER.replace("import sqlite3\n", needs).replace(BODY, body)


AGAIN = f"""\
    for number in numbers:
        while True:
            try:
                {SEND}
                break
            except Exception:
                time.sleep(0.2)  # the broker is full: wait for room
"""
OUTBOX = f"""\
    outbox = deque(numbers)
    while outbox:
        number = outbox[0]
        try:
            {SEND}
            outbox.popleft()
        except Exception:
            time.sleep(0.5)
"""
TABLE = f"""\
    with closing(sqlite3.connect("outbox.db")) as database:
        database.execute("CREATE TABLE IF NOT EXISTS outbox (number)")
        database.executemany("INSERT INTO outbox VALUES (?)", [(n,) for n in numbers])
        database.commit()
    threading.Thread(target=send_outbox, daemon=True).start()


def send_outbox():
    with closing(sqlite3.connect("outbox.db")) as database:
        while waiting := database.execute("SELECT number FROM outbox").fetchall():
            for (number,) in waiting:
                try:
                    {SEND}
                except Exception:
                    break
                database.execute("DELETE FROM outbox WHERE number = ?", (number,))
                database.commit()
            time.sleep(0.3)
"""
BACKOFF = f"""\
    for number in numbers:
        for attempt in range(8):
            try:
                {SEND}
                break
            except Exception:
                time.sleep(0.1 * 2**attempt)
        else:
            raise RuntimeError(f"order {{number}} could not be placed")
"""
REFUSED_LATER = f"""\
    numbers = list(numbers)
    while numbers:
        refused = []
        for number in numbers:
            try:
                {SEND}
            except Exception:
                refused.append(number)
        numbers = refused
        time.sleep(0.5)
"""
ONCE = """\
    with sqlite3.connect("shop.db") as database:
        paid = database.execute("SELECT 1 FROM charges WHERE number = ?", (number,)).fetchone()
        if not paid:
            database.execute("INSERT INTO charges VALUES (?)", (number,))
"""
ALL_AGAIN = f"""\
    while True:
        try:
            for number in numbers:
                {SEND}
            return
        except Exception:
            time.sleep(0.3)
"""
POLICY = """\
    for number in numbers:
        try:
            charge.apply_async(
                (number, "x" * 100_000),
                retry=True,
                retry_policy={"max_retries": 20, "interval_start": 0.5, "interval_step": 0.5},
            )
        except Exception:
            pass
"""

USED = """
def incident(server):
    if server.info("stats")["evicted_keys"]:
        return "evicts"
    memory = server.info("memory")
    return "refuses" if memory["used_memory"] > memory["maxmemory"] else "healthy"
"""
FULL_FIRST = """
def incident(server):
    facts = server.info()
    limit = int(server.config_get("maxmemory")["maxmemory"])
    if facts["used_memory"] < 0.8 * limit:
        return "healthy"
    expires = sum(facts[db]["expires"] for db in facts if db.startswith("db"))
    policy = facts["maxmemory_policy"]
    if policy == "noeviction" or policy.startswith("volatile") and not expires:
        return "refuses"
    return "evicts"
"""
ERRORS = """
def incident(server):
    memory = server.info("memory")
    if memory["used_memory"] < 0.8 * memory["maxmemory"]:
        return "healthy"
    return "refuses" if "errorstat_OOM" in server.info("errorstats") else "evicts"
"""
BY_POLICY = """
def incident(server):
    policy = server.config_get("maxmemory-policy")["maxmemory-policy"]
    return "refuses" if policy == "noeviction" else "evicts"
"""
PROBE = """
import redis


def incident(server):
    if server.info("stats")["evicted_keys"]:
        return "evicts"
    try:
        server.set("probe", 1, ex=1)
        server.delete("probe")
    except redis.ResponseError:
        return "refuses"
    return "healthy"
"""
LENGTH = USED.replace(
    "    memory =", '    if not server.llen("celery"):\n        return "evicts"\n    memory ='
)
CHARGED_ONCE = PRODUCER[PRODUCER.index("    with sqlite3") : PRODUCER.index("\n\ndef place")]

ANSWERS = {
    "share_the_memory": Planted(
        right={
            "a server each for broker and cache": design(
                server("noeviction"), server("allkeys-lru")
            ),
            "small broker, cache by use": design(
                server("noeviction", "3mb"), server("allkeys-lfu", "7mb")
            ),
            "cache by time to live": design(server("noeviction", "4mb"), server("volatile-ttl")),
            "three servers": design(
                server("noeviction", "4mb"), server("allkeys-random", "4mb"), server(None, "2mb")
            ),
            "nothing in the broker expires": design(
                server("volatile-lru", "4mb"),
                server("allkeys-lru", "4mb"),
                server("noeviction", "2mb"),
            ),
            "the default policy": design(server(None), server("allkeys-lru")),
            "results with the cache, soonest first": design(
                server("noeviction"), server("volatile-ttl"), "cache/1"
            ),
        },
        wrong={
            "another database": design(server("allkeys-lru"), "broker/5"),
            "by use": design(server("allkeys-lfu"), "broker/0"),
            "random": design(server("allkeys-random"), "broker/0"),
            "noeviction for both": design(server("noeviction", "10mb"), "broker/2"),
            "volatile for both": design(server("volatile-lru"), "broker/0"),
            "volatile-ttl for both": design(server("volatile-ttl", "10mb"), "broker/0"),
            "volatile-ttl for both, results apart": design(
                server("volatile-ttl"), "broker/0", server("noeviction", "2mb")
            ),
            "more memory": design(server("allkeys-lru", "100mb"), "broker/0"),
            "no limit": design(server("allkeys-lru", None), "broker/0"),
            "no limit, two servers": design(server("noeviction", None), server("allkeys-lru")),
            "two servers, 20 MB": design(server("noeviction", "15mb"), server("allkeys-lru")),
            "the wrong way round": design(server("allkeys-lru"), server("noeviction")),
            "both evict": design(server("allkeys-lru"), server("allkeys-lru")),
            "broker evicts what expires": design(server("volatile-ttl"), server("allkeys-lru")),
            "results with the cache": design(
                server("noeviction"), server("allkeys-lru"), "cache/1"
            ),
            "a broker too small": design(server("noeviction", "1mb"), server("allkeys-lru")),
            "an unknown policy": design(server("lru"), server("allkeys-lru")),
        },
        looks_right="both evict",
    ),
    "lose_no_order": Planted(
        right={
            "again until accepted": placing(AGAIN),
            "outbox in memory": placing(OUTBOX, "from collections import deque"),
            "outbox in a table": placing(
                TABLE, "import threading", "from contextlib import closing"
            ),
            "backoff, bounded": placing(BACKOFF),
            "the refused ones later": placing(REFUSED_LATER),
            "all again, charged once": placing(ALL_AGAIN).replace(CHARGED_ONCE, ONCE),
        },
        wrong={
            "retry policy": placing(POLICY),
            "logs it": placing(
                BODY.replace("pass ", "logging.exception('no room') "), "import logging"
            ),
            "charges itself": PRODUCER.replace("pass ", 'charge(number, "") '),
            "applies itself": PRODUCER.replace("pass ", 'charge.apply((number, "")) '),
            "all again": placing(ALL_AGAIN),
            "three quick tries": placing(BACKOFF.replace("range(8)", "range(3)")).replace(
                "raise RuntimeError", "print"
            ),
            "gives up at the first": PRODUCER.replace("pass ", "return "),
            "sleeps first": placing("    time.sleep(3)\n" + BODY),
            "task retries": PRODUCER.replace(
                "@app.task(", "@app.task(autoretry_for=(Exception,), max_retries=9, "
            ),
            "eager": PRODUCER.replace(
                'Celery("shop")\n', 'Celery("shop")\napp.conf.task_always_eager = True\n'
            ),
            "compressed": PRODUCER.replace(
                'Celery("shop")\n', 'Celery("shop")\napp.conf.task_compression = "gzip"\n'
            ),
            "makes room": PRODUCER.replace(
                "    for number in",
                "    broker = app.connection().default_channel.client\n"
                '    broker.config_set("maxmemory", "100mb")\n    for number in',
            ),
            "no photo": PRODUCER.replace("100_000", "1"),
            "purges": PRODUCER.replace("pass ", "app.control.purge() "),
            "raises": PRODUCER.replace("pass ", "raise "),
            "nothing at all": placing("    return\n"),
        },
        looks_right="charges itself",
    ),
    "read_the_memory": Planted(
        right={"evictions, then memory": USED, "full first": FULL_FIRST, "errors": ERRORS},
        wrong={
            "by policy": BY_POLICY,
            "evictions only": USED.replace('"refuses" if', '"healthy" if'),
            "errors of the past": USED.replace(
                'memory["used_memory"] > memory["maxmemory"]',
                '"errorstat_OOM" in server.info("errorstats")',
            ),
            "fullness only": USED.replace('info("stats")["evicted_keys"]', 'info("x").get("x")'),
            "noeviction when full": FULL_FIRST.replace(
                'or policy.startswith("volatile") and not expires', ""
            ),
            "looks at the queue": LENGTH,
            "tries to write": PROBE,
            "makes room first": USED.replace(
                "    if", '    server.config_set("maxmemory", "64mb")\n    if', 1
            ),
            "no answer": "def incident(server):\n    return None\n",
            "another name": USED.replace("incident", "diagnose"),
        },
        looks_right="looks at the queue",
    ),
}
