"""Answers to lab 02."""

from helpers.checks.cells import given
from tests.exercises.answers import Planted

SHOP = given("lab_02", "survive_a_kill")
CONFIGURED = 'app = Celery("shop")\n'
INSERT = 'database.execute("INSERT INTO charges VALUES (?)", (order,))'
LATE = SHOP.replace("@app.task", "@app.task(acks_late=True)")
SWALLOW = """\
    try:
        time.sleep(bank)
    except BaseException:
        return
"""
FIRST = SHOP[SHOP.index("    time.sleep(bank)") : SHOP.index("    with sqlite3")]
CHARGED_FIRST = SHOP.replace(FIRST, "") + FIRST
ENDLESS = """\
    while True:
        time.sleep(1)
"""

READ = """
import json


def whereabouts(broker, results, sent):
    found = {}
    for key in broker.scan_iter(_type="list"):
        for message in broker.lrange(key, 0, -1):
            found[json.loads(message)["headers"]["id"]] = "queued"
    for entry in broker.hvals("unacked"):
        found[json.loads(entry)[0]["headers"]["id"]] = "stranded"
    for task_id in sent:
        if results.exists(f"celery-task-meta-{task_id}"):
            found[task_id] = "done"
    return {task_id: found.get(task_id, "lost") for task_id in sent}
"""
SEARCH = """
def whereabouts(broker, results, sent):
    waiting = [m for key in broker.keys() if broker.type(key) == "list"
               for m in broker.lrange(key, 0, -1)]
    held = list(broker.hgetall("unacked").values())
    answer = {}
    for task_id in sent:
        if results.get("celery-task-meta-" + task_id):
            answer[task_id] = "done"
        elif any(task_id in message for message in waiting):
            answer[task_id] = "queued"
        elif any(task_id in message for message in held):
            answer[task_id] = "stranded"
        else:
            answer[task_id] = "lost"
    return answer
"""
NAMED = """
import json


def whereabouts(broker, results, sent):
    states = dict(zip(sent, results.mget([f"celery-task-meta-{i}" for i in sent])))
    answer = dict.fromkeys(sent, "lost")
    answer.update({i: "done" for i, raw in states.items() if raw and "SUCCESS" in raw})
    for queue in ("celery", "parcels"):
        for raw in broker.lrange(queue, 0, -1):
            answer[json.loads(raw)["headers"]["id"]] = "queued"
    for raw in broker.hvals("unacked"):
        message, _, _ = json.loads(raw)
        answer[message["headers"]["id"]] = "stranded"
    return answer
"""


def promises(multiplier: int, charge: dict, remind: dict, report: dict) -> dict:
    return {
        "worker_prefetch_multiplier": multiplier,
        "charge": charge,
        "remind": remind,
        "report": report,
    }


EARLY_ACK, LATE_ACK = {"acks_late": False}, {"acks_late": True}
REJECT = {"reject_on_worker_lost": True}

ANSWERS = {
    "survive_a_kill": Planted(
        right={
            "late ack on the task": LATE,
            "late ack for all": SHOP.replace(
                CONFIGURED, CONFIGURED + "app.conf.task_acks_late = True\n"
            ),
            "late ack by annotation": SHOP.replace(
                CONFIGURED, CONFIGURED + 'app.conf.task_annotations = {"*": {"acks_late": True}}\n'
            ),
            "late ack, faster sweep": LATE.replace(
                '"unacked_restore_interval": 1', '"unacked_restore_interval": 0.5'
            ),
            "a shared task": LATE.replace("import Celery", "import Celery, shared_task").replace(
                "@app.task", "@shared_task"
            ),
            "late ack, seven seconds": LATE.replace(
                '"visibility_timeout": 3', '"visibility_timeout": 7'
            ),
        },
        wrong={
            "charged first": CHARGED_FIRST,
            "late ack, does nothing": LATE.replace(INSERT, "pass"),
            "reject on worker lost": SHOP.replace(
                "@app.task", "@app.task(reject_on_worker_lost=True)"
            ),
            "retry": SHOP.replace(
                "@app.task", "@app.task(autoretry_for=(Exception,), retry_backoff=True)"
            ),
            "a quick bank": SHOP.replace("    time.sleep(bank)", "    pass"),
            "shorter timeout": SHOP.replace('"visibility_timeout": 3', '"visibility_timeout": 1'),
            "late ack, an hour": LATE.replace(
                '"visibility_timeout": 3', '"visibility_timeout": 3600'
            ),
            "no prefetch": SHOP.replace(
                CONFIGURED, CONFIGURED + "app.conf.worker_prefetch_multiplier = 1\n"
            ),
            "swallows": SHOP.replace("    time.sleep(bank)", SWALLOW),
            "eager": SHOP.replace(CONFIGURED, CONFIGURED + "app.conf.task_always_eager = True\n"),
            "never ends": LATE.replace("    time.sleep(bank)", ENDLESS),
        },
        looks_right="late ack, does nothing",
    ),
    "find_the_lost": Planted(
        right={"reads all three": READ, "searches the text": SEARCH, "knows the queues": NAMED},
        wrong={
            "no unacked": READ.replace('broker.hvals("unacked")', "()"),
            "one queue": NAMED.replace('("celery", "parcels")', '("celery",)'),
            "no result is lost": """
def whereabouts(broker, results, sent):
    return {i: "done" if results.exists(f"celery-task-meta-{i}") else "lost" for i in sent}
""",
            "all stranded": READ.replace('"lost"', '"stranded"'),
            "takes the messages": READ.replace(
                "for message in broker.lrange(key, 0, -1):",
                "while message := broker.rpop(key):",
            ),
            "takes, and puts back": READ.replace(
                "    for key in broker",
                '    broker.lpush("celery", broker.rpop("celery"))\n    for key in broker',
                1,
            ),
            "purges": READ.replace("    return {", "    broker.flushdb()\n    return {"),
            "counts": """
def whereabouts(broker, results, sent):
    return {"done": 3, "lost": 2, "stranded": 8, "queued": len(sent) - 13}
""",
            "never returns": """
def whereabouts(broker, results, sent):
    while True:
        pass
""",
        },
        looks_right="takes the messages",
    ),
    "three_promises": Planted(
        right={
            "one at a time": promises(1, LATE_ACK, EARLY_ACK, LATE_ACK),
            "two at a time": promises(2, LATE_ACK, EARLY_ACK, LATE_ACK),
            "and rejects": promises(1, LATE_ACK | REJECT, EARLY_ACK, LATE_ACK | REJECT),
            "defaults left out": promises(1, LATE_ACK, {}, LATE_ACK),
        },
        wrong={
            "late everywhere": promises(1, LATE_ACK, LATE_ACK, LATE_ACK),
            "default prefetch": promises(4, LATE_ACK, EARLY_ACK, LATE_ACK),
            "no limit": promises(0, LATE_ACK, EARLY_ACK, LATE_ACK),
            "early everywhere": promises(1, EARLY_ACK, EARLY_ACK, EARLY_ACK),
            "only rejects": promises(1, REJECT, EARLY_ACK, REJECT),
            "the wrong way round": promises(1, EARLY_ACK, LATE_ACK, EARLY_ACK),
            "another option": promises(1, LATE_ACK | {"max_retries": 9}, EARLY_ACK, LATE_ACK),
        },
        looks_right="late everywhere",
    ),
}
