"""Answers to lab 01."""

from helpers.checks.cells import given
from tests.exercises.answers import Planted

GET = given("lab_01", "get_the_result")
LISTS = """
import base64
import json


def waiting(broker):
    found = {}
    for key in broker.scan_iter(_type="list"):
        for raw in broker.lrange(key, 0, -1):
            message = json.loads(raw)
            args, kwargs, after = json.loads(base64.b64decode(message["body"]))
            found[message["headers"]["id"]] = args
    return found
"""
NAMED = r"""
import base64
import json


def waiting(broker):
    found = {}
    for queue in ("celery", "parcels"):
        for step in ("", "\x06\x163", "\x06\x166", "\x06\x169"):
            for raw in broker.lrange(queue + step, 0, -1):
                message = json.loads(raw)
                body = json.loads(base64.b64decode(message["body"]))
                found[message["properties"]["correlation_id"]] = body[0]
    return found
"""
DECODED = """
import json

from helpers import lens


def waiting(broker):
    keys = [key for key in broker.keys() if broker.type(key) == "list"]
    messages = [lens.decode(json.loads(raw)) for key in keys for raw in broker.lrange(key, 0, -1)]
    return {message["headers"]["id"]: message["body"][0] for message in messages}
"""
LOOK = "for raw in broker.lrange(key, 0, -1):"

SETTING = "app.conf.task_ignore_result = True  # the backend was full of log's keys\n"
PRICE, LOG = "@app.task\ndef price", "@app.task\ndef log"


def instead(line: str) -> str:
    """The given shop with `line` in the place of its setting."""
    return GET.replace(SETTING, line + "\n")


def beside(line: str) -> str:
    """The given shop with `line` after its setting."""
    return GET.replace(SETTING, SETTING + line + "\n")


WHERE = """
import json


def where(broker, results, task_id):
    if results.exists(f"celery-task-meta-{task_id}"):
        return "result"
    for key in broker.scan_iter(_type="list"):
        for raw in broker.lrange(key, 0, -1):
            if json.loads(raw)["headers"]["id"] == task_id:
                return "queue"
    for raw in broker.hvals("unacked"):
        if json.loads(raw)[0]["headers"]["id"] == task_id:
            return "unacked"
    return "nowhere"
"""
SETS = r"""
import json

STEPS = ("", "\x06\x163", "\x06\x166", "\x06\x169")
LISTS = [queue + step for queue in ("celery", "parcels") for step in STEPS]


def where(broker, results, task_id):
    held = [json.loads(entry)[0] for entry in broker.hgetall("unacked").values()]
    waiting = [json.loads(raw) for key in LISTS for raw in broker.lrange(key, 0, -1)]
    for place, messages in (("unacked", held), ("queue", waiting)):
        if task_id in {message["headers"]["id"] for message in messages}:
            return place
    stored = {key.removeprefix("celery-task-meta-") for key in results.keys()}
    return "result" if task_id in stored else "nowhere"
"""
CORRELATED = """
def where(broker, results, task_id):
    own = f'"correlation_id": "{task_id}"'
    lists = [key for key in broker.keys() if broker.type(key) == "list"]
    if results.get("celery-task-meta-" + task_id):
        return "result"
    if any(own in raw for key in lists for raw in broker.lrange(key, 0, -1)):
        return "queue"
    return "unacked" if any(own in raw for raw in broker.hvals("unacked")) else "nowhere"
"""
STATE = """
import json


def where(broker, results, task_id):
    stored = results.get(f"celery-task-meta-{task_id}")
    state = json.loads(stored)["status"] if stored else "PENDING"
    return {"PENDING": "queue", "STARTED": "unacked", "SUCCESS": "result"}.get(state, "nowhere")
"""
SEARCH = CORRELATED.replace("""f'"correlation_id": "{task_id}"'""", "task_id")

ANSWERS = {
    "read_the_queue": Planted(
        right={"every list": LISTS, "every name": NAMED, "by lens.decode": DECODED},
        wrong={
            "pops": LISTS.replace(LOOK, "while raw := broker.rpop(key):"),
            "pops with a timeout": LISTS.replace(
                LOOK, "while popped := broker.brpop(key, timeout=0.1):\n            raw = popped[1]"
            ),
            "pops and waits": LISTS.replace(
                LOOK, "while popped := broker.brpop(key):\n            raw = popped[1]"
            ),
            "pops and puts back": LISTS.replace(
                LOOK,
                "for _ in range(broker.llen(key)):\n            raw = broker.rpop(key)\n"
                "            broker.lpush(key, raw)",
            ),
            "moves them to a list of its own": LISTS.replace(
                LOOK, "for raw in broker.lpop(key, 99):"
            ).replace(
                "            message =",
                "            broker.rpush('read', raw)\n            message =",
            ),
            "flushes": LISTS.replace("    return", "    broker.flushdb()\n    return"),
            "the default queue": LISTS.replace('broker.scan_iter(_type="list")', '["celery"]'),
            "no priorities": NAMED.replace(r', "\x06\x163", "\x06\x166", "\x06\x169"', ","),
            "counts": """
def waiting(broker):
    return sum(broker.llen(key) for key in broker.scan_iter(_type="list"))
""",
            "ids alone": LISTS.replace("= args", "= None"),
            "the whole body": LISTS.replace("= args", "= [args, kwargs, after]"),
            "argsrepr": LISTS.replace("= args", '= message["headers"]["argsrepr"]'),
            "argsrepr, read": LISTS.replace(
                "= args", '= list(eval(message["headers"]["argsrepr"]))'
            ),
            "the first two": LISTS.replace("0, -1", "0, 1"),
        },
        looks_right="pops",
    ),
    "get_the_result": Planted(
        right={
            "a word for price": GET.replace(
                PRICE, PRICE.replace("task", "task(ignore_result=False)")
            ),
            "a word for log": instead("").replace(
                LOG, LOG.replace("task", "task(ignore_result=True)")
            ),
            "an annotation for price": beside(
                'app.conf.task_annotations = {"shop.price": {"ignore_result": False}}'
            ),
            "an annotation for log": instead(
                'app.conf.task_annotations = {"shop.log": {"ignore_result": True}}'
            ),
        },
        wrong={
            "off for all": instead("app.conf.task_ignore_result = False"),
            "off, and expires": instead("app.conf.result_expires = 1"),
            "eager": beside("app.conf.task_always_eager = True"),
            "eager, and stores": instead(
                "app.conf.task_always_eager = True\napp.conf.task_store_eager_result = True"
            ).replace(LOG, LOG.replace("task", "task(ignore_result=True)")),
            "track started": beside("app.conf.task_track_started = True"),
            "expires later": beside("app.conf.result_expires = 7 * 86400"),
            "another backend": beside('app.conf.result_backend = "redis://localhost/1"'),
            "price returns nothing": GET.replace(
                PRICE, PRICE.replace("task", "task(ignore_result=False)")
            ).replace("    return 10 * order\n", ""),
            "log returns nothing": instead("").replace('    return f"logged {line}"\n', ""),
        },
        looks_right="eager, and stores",
    ),
    "where_is_it": Planted(
        right={"reads each place": WHERE, "collects the ids": SETS, "one field": CORRELATED},
        wrong={
            "searches the text": SEARCH,
            "the state": STATE,
            "the default queue": WHERE.replace('broker.scan_iter(_type="list")', '["celery"]'),
            "no unacked": WHERE.replace('broker.hvals("unacked")', "[]"),
            "unacked by id": WHERE.replace(
                '    for raw in broker.hvals("unacked"):',
                '    if broker.hexists("unacked", task_id):',
            ).replace('        if json.loads(raw)[0]["headers"]["id"] == task_id:\n    ', ""),
            "a key of that name": """
def where(broker, results, task_id):
    if any(task_id in key for key in results.keys()):
        return "result"
    return "queue" if any(task_id in key for key in broker.keys()) else "nowhere"
""",
            "nowhere": """
def where(broker, results, task_id):
    return "nowhere"
""",
            "lost": WHERE.replace('"nowhere"', '"lost"'),
            "all the rest runs": WHERE.replace('"nowhere"', '"unacked"'),
            "takes the messages": WHERE.replace(LOOK, "while raw := broker.rpop(key):"),
            "takes, and puts back": WHERE.replace(
                LOOK,
                "for _ in range(broker.llen(key)):\n            raw = broker.rpop(key)\n"
                "            broker.lpush(key, raw)",
            ),
            "never returns": """
def where(broker, results, task_id):
    while results.get(f"celery-task-meta-{task_id}") is None:
        pass
    return "result"
""",
        },
        looks_right="searches the text",
    ),
}
