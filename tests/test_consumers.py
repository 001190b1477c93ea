"""Who has what in hand, who hears what: planted histories of consumers, and their fates."""

import itertools
import math
from typing import Any

import pytest

from helpers.consumers import Consumers
from helpers.fates import Census, Outcome, Unacked, classify
from helpers.ledger import History

NOW = 1_000_000.0
PRODUCER, ONE, TWO, CHILD, CHILD_TWO = 1, 100, 200, 101, 201
NAMES = {ONE: "worker1", TWO: "worker2", CHILD: "worker1", CHILD_TWO: "worker2"}


class Told:
    """A history told event by event, one second each."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._numbers = {pid: itertools.count() for pid in (PRODUCER, *NAMES)}

    def say(self, event: str, pid: int, task_id: str | None = None, **more: Any) -> "Told":
        at = float(len(self.events))
        record = {"event": event, "id": task_id, "pid": pid, "n": next(self._numbers[pid])}
        record |= {"at": at, "wall": NOW + at, "task": "shop.charge"}
        if pid in NAMES:
            record["worker"] = NAMES[pid]
        self.events.append({**record, **more})
        return self

    def ready(self, pid: int = ONE, event: str = "ready", **more: Any) -> "Told":
        about = {"queues": ["celery"], "broadcasts": [], "takes_all": False}
        sweep = {"visibility_timeout": 3600.0, "sweep_period": 100.0}
        return self.say(event, pid, **{**about, **sweep, **more})

    def publish(self, task_id: str = "a", retries: int = 0, **more: Any) -> "Told":
        self.say("attempted", PRODUCER, task_id, retries=retries, **more)
        return self.say("accepted", PRODUCER, task_id, retries=retries)

    def receive(self, pid: int = ONE, tag: str = "tag", task_id: str = "a", **m: Any) -> "Told":
        return self.say("received", pid, task_id, **{"tag": tag, "due": 0.0, **m})

    def start(self, pid: int = CHILD, task_id: str = "a", retries: int = 0) -> "Told":
        return self.say("started", pid, task_id, retries=retries)

    def run(self, pid: int = CHILD, task_id: str = "a", end: str = "finished") -> "Told":
        return self.start(pid, task_id).say(end, pid, task_id)

    def lose(self, pid: int = ONE, again: bool = True) -> "Told":
        self.say("disconnected", pid)
        return self.ready(pid, "connected", **self._last(pid)) if again else self

    def _last(self, pid: int) -> dict[str, Any]:
        said = [e for e in self.events if e["pid"] == pid and e["event"] == "ready"][-1]
        return {key: said[key] for key in ("queues", "broadcasts", "takes_all", "sweep_period")}

    @property
    def now(self) -> float:
        return NOW + len(self.events)

    def judge(self, *held: str, live: tuple[int, ...] = (*NAMES,), **parts: Any) -> Outcome:
        entries = [Unacked(tag, "a", NOW) for tag in held]
        at = Census(self.now, unacked=entries, live=frozenset(live), **parts)
        return classify(History(self.events), at)

    def fate(self, *held: str, **parts: Any) -> str:
        return str(self.judge(*held, **parts).table.loc["a", "fate"])


def threads() -> Told:
    return Told().ready(takes_all=True)


FAR = NOW + 600
HANDS: dict[str, tuple[Told, tuple[str, ...], str]] = {
    "received before the connection broke": (Told().ready().publish().receive().lose(), (), ""),
    "and it is not yet back": (Told().ready().publish().receive().lose(again=False), (), ""),
    "received again since": (Told().ready().publish().receive().lose().receive(tag="new"), (), "n"),
    "another worker's connection broke": (
        Told().ready().ready(TWO).publish().receive().lose(TWO),
        (),
        "t",
    ),
    "an ETA task": (Told().ready().publish().receive(due=FAR).lose(), (), ""),
    "broke twice, received between": (
        Told().ready().lose().publish().receive().lose(),
        (),
        "",
    ),
    "broke before it came": (Told().ready().lose().publish().receive(), (), "t"),
    "a pool that takes all": (threads().publish().receive().lose(), (), "t"),
    "that pool, its ETA is far": (threads().publish().receive(due=FAR).lose(), (), ""),
    "that pool, its ETA had come": (threads().publish().receive(due=NOW + 1).lose(), (), "t"),
    "a new program in the same process": (threads().publish().receive().ready(), (), ""),
}


@pytest.mark.parametrize("case", HANDS)
def test_who_has_it_in_hand(case: str) -> None:
    told, _, known = HANDS[case]
    tag = {"t": "tag", "n": "new", "": "tag"}[known]
    assert told.fate(tag) == ("held" if known else "stranded")


def test_a_forgotten_task_whose_message_is_gone_is_lost() -> None:
    assert Told().ready().publish().receive().fate() == "held"
    assert Told().ready().publish().receive().lose().fate() == "lost"


def test_a_task_that_runs_through_a_broken_connection_is_held_until_it_ends() -> None:
    told = Told().ready().publish().receive().start().lose()
    assert told.fate("tag") == "held"
    row = told.say("finished", CHILD, "a").judge("tag").table.loc["a"]
    assert (row["fate"], row["message"]) == ("done", "stranded")  # it cannot be acknowledged


@pytest.mark.parametrize("live", [(ONE,), ()])
def test_what_a_pool_took_and_ran_is_in_no_hand_any_more(live: tuple[int, ...]) -> None:
    told = threads().publish().receive().lose().run(ONE)
    row = told.judge("tag", live=live).table.loc["a"]
    assert (row["fate"], row["message"]) == ("done", "stranded")


def test_the_second_copy_in_a_pool_waits_after_the_first_ran() -> None:
    told = threads().publish().receive().receive(tag="again").lose().run(ONE)
    row = told.judge().table.loc["a"]
    assert (row["fate"], row["place"]) == ("done", "memory")
    assert told.run(ONE).judge().table.loc["a", "message"] == ""


def test_one_of_two_messages_of_a_task_is_known_to_a_live_worker() -> None:
    told = Told().ready().ready(TWO).publish().receive().receive(TWO, tag="two")
    for order in (("tag", "two"), ("two", "tag")):
        assert told.fate(*order, live=(TWO,)) == "held"
        assert told.fate(*order, live=()) == "stranded"


def test_a_retry_in_memory_whose_message_was_evicted_is_held() -> None:
    told = Told().ready().publish().receive().start().say("retried", CHILD, "a")
    told.publish(retries=1).receive(tag="again")
    assert told.fate() == "held"
    assert told.lose().fate() == "lost"


def test_a_worker_that_shuts_down_has_in_hand_and_takes_nothing() -> None:
    told = Told().ready().publish().receive().say("leaving", ONE)
    row = told.judge("tag").table.loc["a"]
    assert row["fate"] == "held"  # it puts it back at its end
    told = Told().ready().publish().say("leaving", ONE)
    row = told.judge(queued={"celery": ["a"]}).table.loc["a"]
    assert (row["fate"], row["consumed"]) == ("queued", False)


def test_a_worker_that_shuts_down_brings_nothing_back() -> None:
    told = Told().ready().ready(TWO).publish().receive(TWO).say("leaving", ONE)
    row = told.judge("tag", live=(ONE,)).table.loc["a"]
    assert (row["fate"], row["latest_return"]) == ("stranded", math.inf)


def test_what_a_worker_that_shuts_down_had_asked_for_is_not_surely_lost() -> None:
    told = Told().ready().publish().say("leaving", ONE)
    outcome = told.judge()
    assert (outcome.counts, outcome.verdict) == ({"lost": 1}, "inconclusive")
    assert "1 tasks may be in the socket of a worker that shuts down" in outcome.sentence
    assert told.judge(live=()).verdict == "broke"
    seen = Told().ready().publish().receive().lose().say("leaving", ONE)
    assert seen.judge(live=(ONE,)).verdict == "broke"


# Queues that a worker takes up or gives up.


def test_the_last_word_on_queues_holds_for_each_worker() -> None:
    told = Told().ready().ready(TWO).publish().ready(TWO, "consuming", queues=["celery", "late"])
    told.ready(ONE, "consuming", queues=[])
    assert Consumers(History(told.events), [ONE, TWO]).consumed == {"celery", "late"}
    assert Consumers(History(told.events), [ONE]).consumed == set()


def test_one_name_under_two_prefixes_is_two_queues() -> None:
    told = Told().ready(prefix="a:").publish()
    row = told.judge(queued={"a:celery": ["a"]}).table.loc["a"]
    assert (row["where"], row["consumed"]) == ("queue celery", True)
    for key in ("celery", "b:celery"):
        assert not told.judge(queued={key: ["a"]}).table.loc["a", "consumed"]


# Revokes.

REVOKES: dict[str, tuple[Told, str]] = {
    "held for its ETA": (Told().ready().publish().receive(due=FAR).say("revoked", ONE, "a"), "d"),
    "told before it came": (
        Told().ready().publish().say("revoked", ONE, "a").receive(due=FAR),
        "d",
    ),
    "only another worker was told": (
        Told().ready().ready(TWO).publish().receive(due=FAR).say("revoked", TWO, "a"),
        "h",
    ),
    "reserved": (Told().ready().publish().receive().say("revoked", ONE, "a"), "d"),
    "in the queue of a pool": (threads().publish().receive().say("revoked", ONE, "a"), "h"),
    "running": (Told().ready().publish().receive().start().say("revoked", ONE, "a"), "h"),
    "its ETA comes after the worker forgot": (
        Told().ready().publish().receive(due=NOW + 20_000).say("revoked", ONE, "a"),
        "h",
    ),
}


@pytest.mark.parametrize("case", REVOKES)
def test_revoked(case: str) -> None:
    told, fate = REVOKES[case]
    assert told.fate("tag") == {"d": "discarded", "h": "held"}[fate]


def test_who_was_told_of_a_revoke_is_gone() -> None:
    told = Told().ready().ready(TWO).publish().receive(due=FAR).say("revoked", ONE, "a")
    assert told.fate("tag", live=(TWO,)) == "stranded"
    told.receive(TWO, tag="again", due=FAR)
    assert told.fate("again", live=(TWO,)) == "held"


def test_a_revoked_task_is_dropped_though_its_message_was_evicted() -> None:
    told = Told().ready().publish().receive(due=FAR).say("revoked", ONE, "a")
    assert told.fate() == "discarded"


def test_revoked_and_forgotten_is_stranded() -> None:
    told = Told().ready().publish().receive(due=FAR).say("revoked", ONE, "a").lose()
    assert told.fate("tag") == "stranded"


# Broadcasts.


def hearing(*pids: int) -> Told:
    told = Told()
    for pid in pids:
        told.ready(pid, broadcasts=["all"])
    return told


def call(told: Told, retries: int = 0) -> Told:
    return told.publish(retries=retries, broadcast="all")


BOTH = (ONE, TWO)
BROADCASTS: dict[str, tuple[Told, str]] = {
    "each once": (call(hearing(*BOTH)).run(CHILD).run(CHILD_TWO), "done"),
    "one alone": (call(hearing(ONE)).run(CHILD), "done"),
    "nobody there": (call(Told().ready()), "lost"),
    "one missed it": (call(hearing(*BOTH)).run(CHILD), "lost"),
    "one twice": (call(hearing(*BOTH)).run(CHILD).run(CHILD), "duplicated"),
    "one came later": (call(hearing(ONE)).ready(TWO, broadcasts=["all"]).run(CHILD), "done"),
    "one does not listen": (call(hearing(ONE).ready(TWO)).run(CHILD), "done"),
    "one listens no more": (
        call(hearing(*BOTH).ready(TWO, "consuming", broadcasts=[])).run(CHILD),
        "done",
    ),
    "one was cut off": (call(hearing(*BOTH).lose(TWO, again=False)).run(CHILD), "done"),
    "one was back": (call(hearing(*BOTH).lose(TWO)).run(CHILD), "lost"),
    "one left": (call(hearing(*BOTH).say("leaving", TWO)).run(CHILD), "done"),
    "one failed": (call(hearing(*BOTH)).run(CHILD).run(CHILD_TWO, end="failed"), "failed"),
    "one runs": (call(hearing(*BOTH)).run(CHILD).start(CHILD_TWO), "held"),
    "one holds it": (call(hearing(*BOTH)).run(CHILD).receive(TWO), "held"),
    "twice under one id": (
        call(call(hearing(*BOTH))).run(CHILD).run(CHILD).run(CHILD_TWO).run(CHILD_TWO),
        "done",
    ),
    "twice, one heard the first only": (
        call(call(hearing(*BOTH))).run(CHILD).run(CHILD).run(CHILD_TWO),
        "lost",
    ),
    "twice, one came between": (
        call(call(hearing(ONE)).ready(TWO, broadcasts=["all"])).run().run().run(CHILD_TWO),
        "done",
    ),
}


@pytest.mark.parametrize("case", BROADCASTS)
def test_broadcast(case: str) -> None:
    told, fate = BROADCASTS[case]
    assert told.fate() == fate


def test_a_worker_that_died_before_a_broadcast_was_not_meant() -> None:
    told = call(hearing(*BOTH)).run(CHILD)
    at = next(event["at"] for event in told.events if event["event"] == "attempted")
    alive = (ONE, CHILD)
    assert told.fate(live=alive, ended={TWO: at - 0.5}) == "done"
    assert told.fate(live=alive, ended={TWO: at + 0.5}) == "lost"


def test_a_worker_that_died_while_it_ran_a_broadcast_lost_it() -> None:
    told = call(hearing(*BOTH)).start(CHILD_TWO).run(CHILD)
    assert told.fate(live=(ONE, CHILD), ended={TWO: 100.0}) == "lost"


def test_a_lost_child_ends_no_run_of_another_worker() -> None:
    told = call(hearing(*BOTH)).receive(ONE).receive(TWO, tag="two").start(CHILD).start(CHILD_TWO)
    told.say("failed", ONE, "a")
    assert told.fate() == "held"
    assert told.say("finished", CHILD_TWO, "a").fate() == "failed"


def test_a_broadcast_that_one_worker_retries_is_heard_again_by_all() -> None:
    told = call(hearing(*BOTH)).run(CHILD).run(CHILD_TWO, end="retried")
    told = call(told, retries=1)
    for child in (CHILD, CHILD_TWO):
        assert told.fate() == "lost"
        told.start(child, retries=1).say("finished", child, "a")
    assert told.fate() == "done"
    assert told.start(CHILD, retries=1).say("finished", CHILD, "a").fate() == "duplicated"


# A return is written after it happened.


def test_a_requeue_does_not_end_what_started_after_it() -> None:
    told = Told().ready().ready(TWO).publish().receive().start()
    moved = len(told.events) - 0.5
    told.receive(TWO, tag="two").start(CHILD_TWO)
    told.say("restored", ONE, "a", requeued=True, moved_at=moved)
    row = told.judge().table.loc["a"]
    assert (row["message"], row["place"]) == ("held", "running")
    assert told.judge(live=(ONE, CHILD, TWO)).table.loc["a", "place"] == "gone"


def test_a_return_does_not_take_what_was_received_after_it() -> None:
    told = Told().ready().ready(TWO).publish().receive()
    moved = len(told.events) - 0.5
    told.receive(ONE).say("restored", ONE, "a", requeued=True, moved_at=moved)
    assert told.fate() == "held"
    told.say("restored", ONE, "a", requeued=True)
    assert told.fate() == "lost"


# A sweep takes a message from the broker's record of a worker, not from the worker.


def swept() -> Told:
    """Worker one waits to run it; another has it too."""
    told = Told().ready().ready(TWO).publish().receive()
    return told.say("restored", TWO, "a", requeued=False).receive(TWO)


def test_a_task_that_ended_would_run_again_where_it_still_waits() -> None:
    told = swept().run(CHILD_TWO)
    row = told.judge().table.loc["a"]
    assert (row["fate"], row["message"], row["place"]) == ("done", "held", "memory")
    assert told.judge().verdict == "inconclusive"
    assert told.judge(live=(TWO, CHILD_TWO)).verdict == "survived"
    assert told.run(CHILD).fate() == "duplicated"


@pytest.mark.parametrize("end", ["discarded", "revoked"])
def test_what_one_worker_dropped_another_may_still_run(end: str) -> None:
    told = swept().say(end, TWO, "a")
    assert told.fate("tag") == told.fate() == "held"
    told = told.say(end, ONE, "a")
    assert told.fate(*["tag"] * (end == "revoked")) == "discarded"


def test_what_was_put_back_and_came_again_is_known_to_the_first_receiver_too() -> None:
    told = swept()
    assert told.fate("tag", live=(ONE,)) == told.fate("tag", live=(TWO,)) == "held"
    assert told.fate("tag", live=()) == "stranded"
    assert told.lose().fate("tag", live=(ONE,)) == "stranded"


def test_a_worker_that_forgot_a_message_and_got_it_again_has_it_once() -> None:
    told = Told().ready().publish().receive().lose()
    told.say("restored", ONE, "a", requeued=False).receive().run(CHILD)
    assert told.judge().table.loc["a", "message"] == ""
    assert told.judge().verdict == "survived"


def test_a_copy_that_was_deduplicated_waits_no_more() -> None:
    told = swept().run(CHILD_TWO).say("deduplicated", CHILD)
    told.events[-1]["id"] = "a"
    assert told.judge().verdict == "survived"


def test_a_copy_whose_child_was_lost_before_it_began_waits_no_more() -> None:
    told = Told().ready().publish().receive().say("failed", ONE, "a")
    assert (told.fate(), told.judge().table.loc["a", "message"]) == ("failed", "")


# Verdicts: a certain loss beside what is open.


def test_a_certain_loss_outweighs_what_is_open() -> None:
    told = Told().ready().publish().publish("b")
    outcome = told.judge(queued={"celery": ["b"]})
    assert outcome.verdict == "broke"
    assert outcome.reasons == ["lost 1", "1 tasks wait in a queue"]


@pytest.mark.parametrize(
    ("before", "verdict"), [((), "inconclusive"), (("b",), "inconclusive"), (("a",), "broke")]
)
def test_out_of_time_is_a_loss_only_if_it_was_lost_before(
    before: tuple[str, ...], verdict: str
) -> None:
    told = Told().ready().publish()
    at = Census(told.now, live=frozenset(NAMES))
    outcome = classify(History(told.events), at, out_of_time=True, lost_before=before)
    assert outcome.verdict == verdict


def test_a_loss_beside_somebody_elses_task_is_a_loss() -> None:
    assert Told().ready().publish().run(task_id="b").judge().verdict == "broke"


def test_the_sentence_names_the_workers_that_ended() -> None:
    outcome = Told().ready().publish().run().judge(exits={"worker1": 1, "worker2": -9})
    assert "worker1 ended with exit code 1 · worker2 ended with exit code -9" in outcome.sentence


# Ledgers that were written before consumers said all this.


def test_an_old_ledger_is_read_as_it_was() -> None:
    told = Told().say("ready", ONE, queues=["celery"], visibility_timeout=9.0, sweep_period=1.0)
    told.publish().say("received", ONE, "a", tag="tag", retries=0)
    assert told.fate("tag") == "held"
    assert told.fate("tag", live=()) == "stranded"
    assert told.judge(queued={"celery": ["a"]}).table.loc["a", "where"] == "queue celery"
