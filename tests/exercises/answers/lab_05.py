"""Answers to lab 05."""

from helpers.checks.cells import given
from tests.exercises.answers import Planted

TIMEOUT_SHOP = given("lab_05", "choose_the_timeout")
ONCE_SHOP = given("lab_05", "charge_once")
FIND = given("lab_05", "who_sweeps")
CONFIGURED = 'app = Celery("shop")\n'
SHORT = '"visibility_timeout": 2,'
SWEEP = '"unacked_restore_interval": 0.3'
UNLESS_CHARGED = (
    'database.execute("INSERT INTO charges SELECT ?1 WHERE ?1 NOT IN charges", (order,))'
)
INSERT = 'database.execute("INSERT INTO charges VALUES (?)", (order,))'


def timeout(seconds: float) -> str:
    return TIMEOUT_SHOP.replace(SHORT, f'"visibility_timeout": {seconds},')


def configured(line: str, shop: str = TIMEOUT_SHOP) -> str:
    return shop.replace(CONFIGURED, f"{CONFIGURED}{line}\n")


def charged_first(shop: str) -> str:
    bank = shop[shop.index("    time.sleep") : shop.index("    with sqlite3")]
    return shop.replace(bank, "") + bank


UPDATED = (
    TIMEOUT_SHOP
    + """

app.conf.update(
    broker_transport_options={**app.conf.broker_transport_options, "visibility_timeout": 4.5}
)
"""
)
NO_SWEEP = "\n".join(line for line in timeout(5).splitlines() if "unacked" not in line) + "\n"

PAY = """\
    with sqlite3.connect("shop.db", timeout=30) as database:
        pay(database, order)
"""
BARE = "@app.task(acks_late=True)\ndef charge(order):\n"


def once(body: str, before: str = "") -> str:
    """The shop with another body of its task, and more lines before the task."""
    return ONCE_SHOP.replace(BARE, before + BARE).replace(PAY, body)


KEY = """\
    with sqlite3.connect("shop.db", timeout=30) as database:
        added = database.execute("INSERT OR IGNORE INTO keys VALUES (?)", (order,))
        if added.rowcount:
            pay(database, order)
"""
CONFLICT = """\
    with sqlite3.connect("shop.db", timeout=30) as database:
        try:
            database.execute("INSERT INTO keys VALUES (?)", (order,))
        except sqlite3.IntegrityError:
            return
        pay(database, order)
"""
LOCKED = """\
    database = sqlite3.connect("shop.db", timeout=30, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    paid = database.execute("SELECT 1 FROM charges WHERE number = ?", (order,)).fetchone()
    if not paid:
        pay(database, order)
    database.execute("COMMIT")
"""
PAY_THEN_KEY = """\
    try:
        with sqlite3.connect("shop.db", timeout=30) as database:
            pay(database, order)
            database.execute("INSERT INTO keys VALUES (?)", (order,))
    except sqlite3.IntegrityError:
        pass  # another copy has paid: this one is rolled back
"""
INDEX = """\
with sqlite3.connect("shop.db", timeout=30) as database:
    database.execute("CREATE UNIQUE INDEX IF NOT EXISTS once ON charges (number)")


"""
INDEXED = """\
    try:
        with sqlite3.connect("shop.db", timeout=30) as database:
            pay(database, order)
    except sqlite3.IntegrityError:
        pass
"""
REDIS = """\
import redis


def store():
    return redis.Redis.from_url(app.conf.broker_url)


"""
LEASE = """\
    with store().lock(f"order-{order}", timeout=3), sqlite3.connect("shop.db") as database:
        if not database.execute("SELECT 1 FROM charges WHERE number = ?", (order,)).fetchone():
            pay(database, order)
            database.commit()
"""
LEASE_OR_RETRY = once(
    """\
    if not store().set(f"order-{order}", "mine", nx=True, ex=3):
        raise self.retry(countdown=0.5, max_retries=20)
    try:
        with sqlite3.connect("shop.db", timeout=30) as database:
            found = database.execute("SELECT 1 FROM charges WHERE number = ?", (order,))
            if not found.fetchone():
                pay(database, order)
    finally:
        store().delete(f"order-{order}")
""",
    REDIS,
).replace(BARE, BARE.replace("acks_late", "bind=True, acks_late").replace("(order", "(self, order"))

LOOK = """\
    with sqlite3.connect("shop.db", timeout=30) as database:
        if database.execute("SELECT 1 FROM charges WHERE number = ?", (order,)).fetchone():
            return
        pay(database, order)
"""
SET_NX = (
    """\
    if not store().set(f"charged:{order}", "yes", nx=True, ex=86400):
        return
"""
    + PAY
)
SET_AND_TAKE_BACK = """\
    if not store().set(f"charged:{order}", "yes", nx=True, ex=86400):
        return
    try:
        with sqlite3.connect("shop.db", timeout=30) as database:
            pay(database, order)
    except BaseException:
        store().delete(f"charged:{order}")
        raise
"""
TWO_TRANSACTIONS = """\
    with sqlite3.connect("shop.db", timeout=30) as database:
        added = database.execute("INSERT OR IGNORE INTO keys VALUES (?)", (order,))
    if added.rowcount:
        with sqlite3.connect("shop.db", timeout=30) as database:
            pay(database, order)
"""
KEY_AFTER = """\
    with sqlite3.connect("shop.db", timeout=30) as database:
        if not database.execute("SELECT 1 FROM keys WHERE number = ?", (order,)).fetchone():
            pay(database, order)
            database.execute("INSERT OR IGNORE INTO keys VALUES (?)", (order,))
"""
MARK_ALL = """\
    with sqlite3.connect("shop.db", timeout=30) as database:
        database.execute("INSERT OR IGNORE INTO keys VALUES (?)", (order,))
"""
SWALLOW = """\
    try:
        with sqlite3.connect("shop.db", timeout=0.1) as database:
            database.execute("BEGIN IMMEDIATE")
            pay(database, order)
    except sqlite3.OperationalError:
        pass  # somebody else is paying
"""
TASK_ID = once(KEY.replace('(?)", (order,))', '(?)", (self.request.id,))')).replace(
    BARE, BARE.replace("acks_late", "bind=True, acks_late").replace("(order", "(self, order")
)
IN_MEMORY = (
    """\
    if order in done:
        return
    done.add(order)
"""
    + PAY
)


def find(body: str) -> str:
    """The function with another body."""
    return FIND[: FIND.index("    for worker")] + body


SUMS = find("""\
    sums = []
    for worker in workers:
        if worker["alive"]:
            options = worker["broker_transport_options"]
            least = options.get("visibility_timeout", 3600)
            interval = options.get("unacked_restore_interval", 10)
            most = least + interval * options.get("unacked_restore_throttle", 10)
            sums.append((most, least, worker["name"]))
    most, least, name = min(sums)
    return name, least, most
""")
DEFAULTS = find("""\
    defaults = {
        "visibility_timeout": 3600,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 10,
    }
    known = {w["name"]: defaults | w["broker_transport_options"] for w in workers if w["alive"]}

    def period(name):
        return known[name]["unacked_restore_interval"] * known[name]["unacked_restore_throttle"]

    name = min(known, key=lambda name: known[name]["visibility_timeout"] + period(name))
    least = known[name]["visibility_timeout"]
    return name, least, least + period(name)
""")
FROM_KOMBU = find("""\
    from kombu.transport.redis import Channel

    def option(worker, name):
        return worker["broker_transport_options"].get(name, getattr(Channel, name))

    def latest(worker):
        interval, throttle = "unacked_restore_interval", "unacked_restore_throttle"
        return option(worker, "visibility_timeout") + option(worker, interval) * option(
            worker, throttle
        )

    first = sorted((worker for worker in workers if worker["alive"]), key=latest)[0]
    return [first["name"], option(first, "visibility_timeout"), latest(first)]
""")
CLASS = """\
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Worker:
    name: str
    alive: bool
    queues: list[str]
    broker_transport_options: dict[str, float] = field(default_factory=dict)

    def least(self) -> float:
        return self.broker_transport_options.get("visibility_timeout", 3600)

    def most(self) -> float:
        get = self.broker_transport_options.get
        restore = "unacked_restore_"
        return self.least() + get(restore + "interval", 10) * get(restore + "throttle", 10)


def forecast(workers: list[dict], queue: str) -> tuple[str, float, float]:
    alive = [worker for worker in (Worker(**one) for one in workers) if worker.alive]
    first = min(alive, key=Worker.most)
    return first.name, first.least(), first.most()
"""

ANSWERS = {
    "choose_the_timeout": Planted(
        right={
            "5 seconds": timeout(5),
            "4.5 seconds, by update": UPDATED,
            "4.5 seconds, half the sweeps": timeout(4.5).replace(
                SWEEP, '"unacked_restore_interval": 0.6'
            ),
            "prefetch one": configured("app.conf.worker_prefetch_multiplier = 1"),
            "prefetch none": configured("app.conf.worker_disable_prefetch = True"),
        },
        wrong={
            "an hour": timeout(3600),
            "a minute": timeout(60),
            "a little longer": timeout(2.5),
            "at the top": configured("app.conf.visibility_timeout = 5"),
            "only at the top": configured(
                "app.conf.visibility_timeout = 5", TIMEOUT_SHOP.replace(f"    {SHORT}", "    #")
            ),
            "for results": configured(
                'app.conf.result_backend_transport_options = {"visibility_timeout": 5}'
            ),
            "early ack": TIMEOUT_SHOP.replace("acks_late=True", ""),
            "early ack, 5 seconds": timeout(5).replace("acks_late=True", ""),
            "a quick bank": timeout(5).replace("    time.sleep(0.8)", "    pass"),
            "default sweep": NO_SWEEP,
            "time limit": configured("app.conf.task_time_limit = 0.5"),
            "does nothing": timeout(5).replace(INSERT, "pass"),
            "charged first, an hour": charged_first(timeout(3600)),
            "charged first, early ack": charged_first(timeout(5)).replace("acks_late=True", ""),
            "half the time": TIMEOUT_SHOP.replace("time.sleep(0.8)", "time.sleep(0.45)"),
            "a key": TIMEOUT_SHOP.replace(INSERT, UNLESS_CHARGED),
        },
        looks_right="does nothing",
    ),
    "charge_once": Planted(
        right={
            "key and charge together": once(KEY),
            "a conflict ends it": once(CONFLICT),
            "locks, then looks": once(LOCKED),
            "pays, then rolls back": once(PAY_THEN_KEY),
            "unique index": once(INDEXED, INDEX),
            "a lock in Redis that expires": once(LEASE, REDIS),
            "a lock that expires, tried again": LEASE_OR_RETRY,
        },
        wrong={
            "looks, then pays": once(LOOK),
            "one at a time": once(LOOK).replace(
                CONFIGURED, CONFIGURED + 'app.conf.worker_pool = "solo"\n'
            ),
            "a lock of half a minute": once(LEASE.replace("timeout=3", "timeout=30"), REDIS),
            "SET NX": once(SET_NX, REDIS),
            "SET NX, taken back": once(SET_AND_TAKE_BACK, REDIS),
            "two transactions": once(TWO_TRANSACTIONS),
            "key afterwards": once(KEY_AFTER),
            "task id": TASK_ID,
            "a minute": ONCE_SHOP.replace('"visibility_timeout": 1', '"visibility_timeout": 60'),
            "early ack": ONCE_SHOP.replace("acks_late=True", ""),
            "early ack, long timeout": ONCE_SHOP.replace("acks_late=True", "").replace(
                '"visibility_timeout": 1', '"visibility_timeout": 60'
            ),
            "in memory": once(IN_MEMORY, "done = set()\n\n\n"),
            "does nothing": once("    pass\n"),
            "marks it done": once(MARK_ALL),
            "swallows": once(SWALLOW),
        },
        looks_right="marks it done",
    ),
    "who_sweeps": Planted(
        right={
            "smallest sum": SUMS,
            "with defaults": DEFAULTS,
            "asks kombu": FROM_KOMBU,
            "a dataclass": CLASS,
        },
        wrong={
            "with the dead": SUMS.replace('if worker["alive"]', "if True"),
            "shortest timeout": SUMS.replace("min(sums)", "min(sums, key=lambda s: s[1])"),
            "its queue, alive": FIND.replace("if queue in", 'if worker["alive"] and queue not in'),
            "no throttle": SUMS.replace(' * options.get("unacked_restore_throttle", 10)', ""),
            "no sweep": SUMS.replace("return name, least, most", "return name, least, least"),
            "from now": SUMS.replace("return name, least, most", "return name, 0, most"),
            "the default": find('    return workers[0]["name"], 3600, 3700\n'),
            "any time": SUMS.replace("return name, least, most", "return name, 0, 9999"),
            "a name": SUMS.replace("return name, least, most", "return name"),
        },
        looks_right="shortest timeout",
    ),
}
