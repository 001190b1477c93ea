"""Answers to lab 06."""

from helpers.checks.cells import given
from tests.exercises.answers import Planted

SHOP = given("lab_06", "fire_the_body")
BILLING = given("lab_06", "tell_somebody")
FIND = given("lab_06", "find_the_hang")
APP = 'app = Celery("shop")\n'
PRICE, TOTAL = "@app.task\ndef price", "@app.task\ndef total"
SEND = "    return chord([price.s(order) for order in orders])(total.s(invoice))\n"


def on_price(options: str, source: str = SHOP) -> str:
    return source.replace(PRICE, f"@app.task({options})\ndef price")


def on_total(options: str, source: str = SHOP) -> str:
    return source.replace(TOTAL, f"@app.task({options})\ndef total")


def on_send(lines: str, source: str = SHOP) -> str:
    return source.replace(SEND, lines)


LATE = on_price("acks_late=True")
# A second chance that is itself a message: it waits in `unacked`, and survives the kill there.
SECOND_CHANCE = """\
    make_sure.apply_async((invoice, orders), countdown=3.5)
    return price_all(invoice, orders)


def price_all(invoice, orders):
    return chord([price.s(order) for order in orders])(total.s(invoice))


@app.task
def make_sure(invoice, orders):
    with sqlite3.connect("shop.db") as database:
        query = "SELECT 1 FROM invoices WHERE number = ?"
        if not database.execute(query, (invoice,)).fetchone():
            price_all(invoice, orders)
"""
SUM_WHAT_IS_THERE = """\
    parts = group(price.s(order) for order in orders)()
    add_up.apply_async(([part.id for part in parts], invoice), countdown=5.5)


@app.task
def add_up(ids, invoice):
    results = [app.AsyncResult(task_id).result for task_id in ids]
    total([result or 0 for result in results], invoice)
"""
CATCH_ALL = """\
    try:
        time.sleep(1)
    except BaseException:
        raise price.retry(countdown=1)
"""

LOOKUP = "    return PRICES[order]  # KeyError: an order that nobody knows\n"


def body(signature: str) -> str:
    return on_send(SEND.replace("total.s(invoice)", signature), BILLING)


WITH_ALARM = body("total.s(invoice).on_error(alarm.s(invoice))")
ON_CHORD = """\
    invoices = chord([price.s(order) for order in orders], total.s(invoice))
    invoices.link_error(alarm.s(invoice))
    return invoices()
"""
VALUE = BILLING.replace(LOOKUP, "    return PRICES.get(order)\n").replace(
    "def total(prices, invoice):\n",
    "def total(prices, invoice):\n"
    "    if None in prices:\n        alarm.delay(None, invoice)\n        return\n",
)
FROM_THE_PART = BILLING.replace(
    LOOKUP,
    "    if order not in PRICES:\n        alarm.delay(None, invoice)\n" + LOOKUP,
)
FROM_THE_PART = FROM_THE_PART.replace("def price(order)", "def price(order, invoice)")
FROM_THE_PART = FROM_THE_PART.replace("price.s(order)", "price.s(order, invoice)")
ALARMING = """
class Alarming(app.Task):
    def on_failure(self, exc, task_id, args, kwargs, einfo):
        alarm.delay(task_id, args[-1])
"""
IGNORES = BILLING.replace(
    LOOKUP, "    if order not in PRICES:\n        raise Ignore()\n    return PRICES[order]\n"
).replace("\nfrom celery import", "\nfrom celery.exceptions import Ignore\nfrom celery import")
ZERO = BILLING.replace(LOOKUP, "    return PRICES.get(order, 0)\n")

READ = """
import json


def why(broker, results, group_id, part_ids):
    key = f"celery-taskset-meta-{group_id}"
    if results.get(f"{key}.c") == "done":
        return "fired"
    if not results.exists(f"{key}.s"):
        return "count lost"
    there = set()
    for queue in broker.scan_iter(_type="list"):
        there |= {json.loads(message)["headers"]["id"] for message in broker.lrange(queue, 0, -1)}
    there |= {json.loads(entry)[0]["headers"]["id"] for entry in broker.hvals("unacked")}
    reported = {member.rpartition(":")[0] for member in results.smembers(f"{key}.d")}
    return "waiting" if set(part_ids) - reported <= there else "part lost"
"""
SEARCH = """
def why(broker, results, group_id, part_ids):
    keys = results.keys(f"celery-taskset-meta-{group_id}.*")
    endings = {key[-1] for key in keys}
    if endings == {"c"}:
        return "fired"
    if "s" not in endings:
        return "count lost"
    reported = results.smembers(f"celery-taskset-meta-{group_id}.d")
    texts = broker.hvals("unacked")
    for key in broker.keys():
        if broker.type(key) == "list":
            texts += broker.lrange(key, 0, -1)
    for part in part_ids:
        waits = any(f'"id": "{part}"' in text for text in texts)
        if not waits and not any(name.startswith(part) for name in reported):
            return "part lost"
    return "waiting"
"""
COUNTS = """
import json


def why(broker, results, group_id, part_ids):
    size, joined, claim = (f"celery-taskset-meta-{group_id}.{end}" for end in "sjc")
    if results.exists(claim):
        return "fired"
    if results.get(size) is None:
        return "count lost"
    messages = [json.loads(m) for q in ("celery", "parcels") for m in broker.lrange(q, 0, -1)]
    messages += [json.loads(entry)[0] for entry in broker.hvals("unacked")]
    mine = [m for m in messages if m["headers"]["group"] == group_id]
    missing = int(results.get(size)) - results.zcard(joined)
    return "waiting" if len(mine) == missing else "part lost"
"""

ANSWERS = {
    "fire_the_body": Planted(
        right={
            "late ack on the parts": LATE,
            "late ack for all": SHOP.replace(APP, APP + "app.conf.task_acks_late = True\n"),
            "late ack by annotation": SHOP.replace(
                APP,
                APP + 'app.conf.task_annotations = {"shop.price": {"acks_late": True}}\n',
            ),
            "late ack, faster sweep": LATE.replace(
                '"unacked_restore_interval": 1', '"unacked_restore_interval": 0.5'
            ),
            "a second chance": on_send(SECOND_CHANCE),
        },
        wrong={
            "sums what is there": on_send(SUM_WHAT_IS_THERE).replace("chord", "group", 1),
            "late ack, does nothing": LATE.replace("    return 10 * order", "    return 0"),
            "the shop sends the body": on_send(
                "    chord([price.s(order) for order in orders])(total.s(invoice))\n"
                "    prices = [10 * order for order in orders]\n"
                "    return total.apply_async((prices, invoice), countdown=2)\n"
            ),
            "the shop writes the invoice": on_send(
                "    total([10 * order for order in orders], invoice)\n" + SEND
            ),
            "late ack, no second": LATE.replace("time.sleep(1)", "time.sleep(0.6)"),
            "takes no time": SHOP.replace("time.sleep(1)", "pass"),
            "late ack on the body": on_total("acks_late=True"),
            "late ack on the message": on_send(
                SEND.replace("price.s(order)", "price.s(order).set(acks_late=True)")
            ),
            "late ack, an hour": LATE.replace(
                '"visibility_timeout": 3', '"visibility_timeout": 3600'
            ),
            "errback": on_send(
                SEND.replace("total.s(invoice)", "total.s(invoice).on_error(total.s(invoice))")
            ),
            "retry": on_price("autoretry_for=(Exception,), retry_backoff=True"),
            "catches everything": SHOP.replace(
                "    time.sleep(1)  # somebody looks it up\n", CATCH_ALL
            ),
            "time limits on the body": on_total("time_limit=8, soft_time_limit=5"),
            "reject on worker lost": on_price("reject_on_worker_lost=True"),
            "waits for it": on_send(
                SEND.replace("    return chord", "    result = chord")
                + "    result.get(timeout=5)\n    return result\n"
            ),
        },
        looks_right="sums what is there",
    ),
    "tell_somebody": Planted(
        right={
            "errback of the body": WITH_ALARM,
            "errback of the chord": on_send(ON_CHORD, BILLING),
            "errback as an option": body("total.s(invoice).set(link_error=[alarm.s(invoice)])"),
            "errback of each part": on_send(
                SEND.replace("price.s(order)", "price.s(order).on_error(alarm.s(invoice))"),
                BILLING,
            ),
            "the part tells, and fails": FROM_THE_PART,
            "an error value": VALUE,
        },
        wrong={
            "a price of 0": ZERO,
            "the shop looks first": on_send(
                "    if set(orders) - set(PRICES):\n        return alarm(None, invoice)\n"
                "    return chord([price.s(order) for order in orders])(total.s(invoice))\n",
                BILLING,
            ),
            "the shop looks first, and goes on": on_send(
                "    if set(orders) - set(PRICES):\n        alarm(None, invoice)\n" + SEND, BILLING
            ),
            "waits for the chord": on_send(
                SEND.replace("    return chord", "    result = chord")
                + "    try:\n        result.get(timeout=4)\n    except Exception:\n"
                "        alarm.delay(result.id, invoice)\n    return result\n",
                BILLING,
            ),
            "the shop sends the alarm": on_send(
                "    if set(orders) - set(PRICES):\n        alarm.delay(None, invoice)\n"
                "    return chord([price.s(order) for order in orders])(total.s(invoice))\n",
                BILLING,
            ),
            "alarm, and a price of 0": FROM_THE_PART.replace(
                "PRICES[order]  #", "PRICES.get(order, 0)  #"
            ),
            "retries": on_price("autoretry_for=(KeyError,)", BILLING),
            "retries first": on_price("autoretry_for=(KeyError,)", WITH_ALARM),
            "body with default arguments": BILLING.replace(
                "def total(prices, invoice)", "def total(prices=(), invoice=None)"
            ),
            "immutable errback": body("total.s(invoice).on_error(alarm.si(invoice))"),
            "errback without the invoice": body("total.s(invoice).on_error(alarm.s())"),
            "on_failure of the body": on_total(
                "base=Alarming", BILLING.replace("\n@app.task", ALARMING + "\n\n@app.task", 1)
            ),
            "alarm for every invoice": on_send(
                "    alarm.apply_async((None, invoice), countdown=2)\n" + SEND, BILLING
            ),
            "link, not link_error": body("total.s(invoice).set(link=alarm.s(invoice))"),
            "does not propagate": on_send(
                SEND.replace("    return chord", "    result = chord")
                + "    result.get(timeout=4, propagate=False)\n    return result\n",
                BILLING,
            ),
            "ignores": IGNORES,
        },
        looks_right="a price of 0",
    ),
    "find_the_hang": Planted(
        right={"reads the keys": READ, "searches the text": SEARCH, "counts": COUNTS},
        wrong={
            "puts the count back": READ.replace(
                '        return "count lost"\n',
                '        results.set(f"{key}.s", len(part_ids))\n        return "count lost"\n',
            ),
            "takes, and puts back": READ.replace(
                "    there = set()\n",
                "    there = set()\n"
                '    for queue in broker.scan_iter(_type="list"):\n'
                "        broker.lpush(queue, broker.rpop(queue))\n",
            ),
            "no count is fired": READ.replace(
                'results.get(f"{key}.c") == "done"',
                'not results.exists(f"{key}.j") and not results.exists(f"{key}.s")',
            ),
            "takes the messages": READ.replace(
                "{json.loads(message)", "{json.loads(broker.rpop(queue))"
            ),
            "what has no result waits": FIND.replace('"part lost"\n', '"waiting"\n'),
            "no unacked": READ.replace('broker.hvals("unacked")', "()"),
            "one queue": READ.replace('broker.scan_iter(_type="list")', '("celery",)'),
            "one part that waits is enough": READ.replace("part_ids) - reported <=", "part_ids) &"),
            "no count": READ.replace('not results.exists(f"{key}.s")', "False"),
            "a result is a report": SEARCH.replace(
                "any(name.startswith(part) for name in reported)",
                'results.exists("celery-task-meta-" + part)',
            ),
            "keys alone": COUNTS.replace("len(mine) == missing", "missing == 1"),
        },
        looks_right="puts the count back",
    ),
}
