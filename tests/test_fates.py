"""The classifier on histories written by hand. Each plants one fate, or a mixture."""

import math
import sqlite3
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from helpers.fates import FATES, Census, Outcome, Unacked, classify
from helpers.ledger import History
from helpers.tables import effects

WORKER, CHILD, PRODUCER, DEAD = 100, 101, 1, 666
NOW = 1_000_000.0


class Story:
    """A history told event by event."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._numbers = {pid: count() for pid in (WORKER, CHILD, PRODUCER, DEAD)}

    def say(self, event: str, task_id: str | None, pid: int, **details: Any) -> "Story":
        record = {"event": event, "id": task_id, "pid": pid, "n": next(self._numbers[pid])}
        self.events.append({"at": 0.0, "wall": NOW, "task": "shop.charge", **record, **details})
        return self

    def ready(self, pid: int = WORKER, **settings: Any) -> "Story":
        sweep = {"visibility_timeout": 3600.0, "sweep_period": 100.0, "queues": ["celery"]}
        return self.say("ready", None, pid, **{**sweep, **settings})

    def publish(self, *ids: str, retries: int = 0, pid: int = PRODUCER) -> "Story":
        for task_id in ids:
            self.say("attempted", task_id, pid, retries=retries)
            self.say("accepted", task_id, pid, retries=retries)
        return self

    def refuse(self, task_id: str) -> "Story":
        self.say("attempted", task_id, PRODUCER, retries=0)
        return self.say("refused", task_id, PRODUCER, retries=0, why="OperationalError()")

    def receive(self, task_id: str, tag: str = "", pid: int = WORKER, **more: Any) -> "Story":
        details = {"retries": 0, "redelivered": False, "tag": tag or f"tag-{task_id}", **more}
        return self.say("received", task_id, pid, **details)

    def start(self, task_id: str, pid: int = CHILD, retries: int = 0, **more: Any) -> "Story":
        return self.say("started", task_id, pid, retries=retries, **{"redelivered": False, **more})

    def run(self, *ids: str, end: str = "finished", **details: Any) -> "Story":
        for task_id in ids:
            worker = {"worker": details["worker"]} if "worker" in details else {}
            self.receive(task_id, **worker).start(task_id, **details).say(end, task_id, CHILD)
        return self

    def judge(self, census: Census | None = None, **options: Any) -> Outcome:
        census = census or Census(NOW, live=frozenset({WORKER, CHILD}))
        return classify(History(self.events), census, **options)


def census(**parts: Any) -> Census:
    return Census(NOW, **{"live": frozenset({WORKER, CHILD}), **parts})


def held_by(pid: int, *, age: float = 0.0, **ready: Any) -> tuple[Story, Census]:
    story = Story().ready(**ready).publish("a").receive("a", pid=pid)
    return story, census(unacked=[Unacked("tag-a", "a", NOW - age)])


PLANTED: dict[str, tuple[Story, Census]] = {
    "done": (Story().publish("a").run("a"), census()),
    "duplicated": (Story().publish("a").run("a").run("a"), census()),
    "lost": (Story().publish("a"), census()),
    "stranded": held_by(DEAD),
    "held": held_by(WORKER),
    "queued": (Story().publish("a"), census(queued={"celery": ["a"]})),
    "failed": (Story().publish("a").run("a", end="failed"), census()),
    "discarded": (Story().publish("a").say("discarded", "a", WORKER, why="expired"), census()),
    "refused": (Story().refuse("a"), census()),
    "recovered": (Story().refuse("a").run("a"), census()),
    "unexpected": (Story().publish("b").run("b", "a"), census()),
}


def test_every_fate_is_planted() -> None:
    assert list(PLANTED) == list(FATES)


@pytest.mark.parametrize("fate", PLANTED)
def test_planted_fate_is_found(fate: str) -> None:
    story, at = PLANTED[fate]
    assert story.judge(at).table.loc["a", "fate"] == fate


def test_the_mixture_of_all_is_told_apart() -> None:
    whole, entries, queued = Story().ready(), [], []
    for fate, (story, at) in PLANTED.items():
        for event in story.events:
            if event["event"] == "ready":
                continue
            name = fate if event["id"] == "a" else "extra"
            tag = {"tag": name} if "tag" in event else {}
            rest = {k: v for k, v in event.items() if k not in ("event", "id", "pid", "n", "tag")}
            whole.say(event["event"], name, event["pid"], **rest, **tag)
        entries += [Unacked(fate, fate, NOW) for _ in at.unacked]
        queued += [fate for _ in at.queued]
    table = whole.judge(census(unacked=entries, queued={"celery": queued})).table
    found = table.drop(index="extra")["fate"]
    assert dict(found) == {fate: fate for fate in FATES}


def test_a_retry_is_no_duplicate() -> None:
    story = Story().publish("a").receive("a").start("a").say("retried", "a", CHILD)
    story.publish("a", retries=1, pid=CHILD).run("a", retries=1)
    outcome = story.judge()
    assert outcome.table.loc["a", ["fate", "starts"]].tolist() == ["done", 2]


def test_a_redelivered_retry_is_a_duplicate() -> None:
    story = Story().publish("a").receive("a").start("a").say("retried", "a", CHILD)
    story.publish("a", retries=1, pid=CHILD).run("a", retries=1).run("a", retries=1)
    assert story.judge().table.loc["a", "fate"] == "duplicated"


def test_one_id_published_twice_and_run_twice_is_done() -> None:
    assert Story().publish("a", "a").run("a", "a").judge().counts == {"done": 1}


def test_a_kill_before_the_end_of_an_early_ack_task_loses_it() -> None:
    story = Story().publish("a").receive("a", pid=DEAD).start("a", pid=DEAD)
    assert story.judge().counts == {"lost": 1}


def test_a_task_revoked_in_a_workers_memory_is_discarded_and_not_held() -> None:
    story = Story().publish("a").receive("a").say("discarded", "a", WORKER, why="revoked")
    assert story.judge().counts == {"discarded": 1}


def test_a_running_task_is_held_and_not_lost() -> None:
    outcome = Story().publish("a").receive("a").start("a").judge()
    assert outcome.table.loc["a", ["fate", "place"]].tolist() == ["held", "running"]


def test_a_reserved_task_whose_copy_was_evicted_is_held_by_its_worker() -> None:
    assert Story().publish("a").receive("a").judge().counts == {"held": 1}


def test_redelivered_to_a_live_worker_is_held_and_not_stranded() -> None:
    story = Story().ready().publish("a").receive("a", "one", pid=DEAD)
    story.receive("a", "two", pid=WORKER)
    assert story.judge(census(unacked=[Unacked("two", "a", NOW)])).counts == {"held": 1}


def test_a_finished_task_with_a_message_left_is_no_clean_pass() -> None:
    outcome = Story().ready().publish("a").run("a").judge(census(queued={"celery": ["a"]}))
    assert (outcome.counts, outcome.verdict) == ({"done": 1}, "inconclusive")
    assert "would run again" in outcome.sentence


def test_queue_without_consumer_says_so() -> None:
    at = census(queued={"mail": ["a"], "celery": ["b"]})
    table = Story().ready().publish("a", "b").judge(at).table
    assert table[["queue", "consumed"]].T.to_dict("list") == {
        "a": ["mail", False],
        "b": ["celery", True],
    }
    assert table["where"].to_dict() == {
        "a": "queue mail, no consumer",
        "b": "queue celery",
    }


@pytest.mark.parametrize(
    ("age", "settings", "window"),
    [
        (0, {}, (3600, 3700)),
        (3590, {}, (10, 110)),
        (5000, {}, (0, 100)),
        (1, {"visibility_timeout": 3.0, "sweep_period": 1.0}, (2, 3)),
    ],
)
def test_return_of_a_stranded_task(
    age: float, settings: dict[str, float], window: tuple[float, float]
) -> None:
    story, at = held_by(DEAD, age=age, **settings)
    row = story.judge(at).table.loc["a"]
    assert (row["earliest_return"], row["latest_return"]) == pytest.approx(window)


def test_the_shortest_timeout_of_the_live_workers_wins() -> None:
    story, at = held_by(DEAD)
    story.ready(CHILD, visibility_timeout=5.0, sweep_period=2.0)
    assert story.judge(at).table.loc["a", "latest_return"] == 7


def test_with_no_worker_alive_nobody_brings_it_back() -> None:
    story, at = held_by(DEAD, age=10)
    row = story.judge(Census(NOW, unacked=at.unacked)).table.loc["a"]
    assert (row["earliest_return"], row["latest_return"]) == (3590, math.inf)


def test_without_a_visibility_timeout_no_clock_brings_it_back() -> None:
    story, at = held_by(DEAD)
    for event in story.events:
        event.pop("visibility_timeout", None)
        event.pop("sweep_period", None)
    row = story.judge(at).table.loc["a"]
    assert math.isnan(row["earliest_return"]) and row["latest_return"] == math.inf


def test_unacked_without_its_index_never_returns() -> None:
    story, _ = held_by(DEAD)
    row = story.judge(census(unacked=[Unacked("tag-a", "a", math.nan)])).table.loc["a"]
    assert row["earliest_return"] == math.inf


VERDICTS = [
    (Story().publish("a", "b").run("a", "b"), census(), "survived"),
    (Story().publish("a", "b").run("a"), census(), "broke"),
    (Story().refuse("a").publish("b").run("b"), census(), "survived"),  # the producer was told
    (Story().publish("a").run("a", end="failed"), census(), "survived"),  # the caller was told
    (Story().refuse("a").run("a"), census(), "broke"),  # the producer was told wrong
    (Story().publish("a"), census(queued={"celery": ["a"]}), "inconclusive"),
    (Story().publish("a").receive("a").start("a"), census(), "inconclusive"),
    (Story().publish("b").run("b", "a"), census(), "inconclusive"),
    (Story(), census(), "inconclusive"),
]


@pytest.mark.parametrize(("story", "at", "verdict"), VERDICTS)
def test_verdict(story: Story, at: Census, verdict: str) -> None:
    assert story.judge(at).verdict == verdict


def test_no_census_no_verdict() -> None:
    history = History(Story().publish("a").run("a").events)
    outcome = classify(history, None)
    assert outcome.verdict == "inconclusive"
    assert "does not answer" in outcome.sentence


def test_out_of_time_is_no_loss() -> None:
    assert Story().publish("a").judge(out_of_time=True).verdict == "inconclusive"


@pytest.mark.parametrize("damage", ["torn", "missing"])
def test_a_damaged_ledger_is_no_pass(damage: str) -> None:
    events = Story().publish("a", "b").run("a", "b").events
    history = History(events, torn=1) if damage == "torn" else History(events[:1] + events[2:])
    outcome = classify(history, census())
    assert outcome.verdict == "inconclusive"
    assert "missing or torn" in outcome.sentence


def test_counts_add_up_and_the_sentence_has_them() -> None:
    outcome = Story().publish(*"abcd").run("a", "b", "c").judge()
    assert sum(outcome.counts.values()) == 4
    assert outcome.sentence.startswith("broke · accepted 4 · done 3 · lost 1")
    assert outcome.finding == "1 lost of 4 accepted tasks"


def test_a_caption_stands_in_place_of_the_verdict_and_its_reasons() -> None:
    outcome = Story().publish("a").judge(census(queued={"celery": ["a"]}), log_errors=2)
    assert outcome.sentence == (
        "inconclusive · accepted 1 · queued 1 · error lines in the workers' logs: 2 · "
        "1 tasks wait in a queue"
    )
    asked = replace(outcome, caption="passed this check").titled("yours")
    assert (asked.title, asked.verdict) == ("yours", "inconclusive")
    assert asked.sentence == (
        "passed this check · accepted 1 · queued 1 · error lines in the workers' logs: 2"
    )


def test_effects_are_counted_apart_from_executions(tmp_path: Path) -> None:
    database = tmp_path / "shop.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE charges (task_id TEXT)")
        connection.executemany("INSERT INTO charges VALUES (?)", [("a",), ("a",), ("b",)])
    assert effects(database, "charges", "task_id").to_dict() == {"a": 2, "b": 1}
    with pytest.raises(sqlite3.OperationalError):
        effects(tmp_path / "typo.db", "charges", "task_id")
    assert not (tmp_path / "typo.db").exists()


def lost_child() -> Story:
    """A child that died with an early-acked task; its parent lives."""
    story = Story().ready(worker="worker1").publish("a").receive("a", worker="worker1")
    return story.start("a", pid=DEAD, worker="worker1")


def test_a_lost_child_that_its_parent_has_not_noticed() -> None:
    row = lost_child().judge().table.loc["a"]
    assert (row["fate"], row["message"]) == ("lost", "")
    assert row["place"] == "gone"  # settle waits for the parent's report
    # There is none where the result was stored just before the child died.
    assert lost_child().judge().verdict == "inconclusive"
    nobody = lost_child().judge(Census(NOW)).table.loc["a"]
    assert (nobody["fate"], nobody["place"]) == ("lost", "")


def test_the_parent_reports_a_lost_child() -> None:
    row = lost_child().say("failed", "a", WORKER).judge().table.loc["a"]
    assert (row["fate"], row["place"]) == ("failed", "")


def test_a_lost_child_whose_message_was_requeued() -> None:
    story = lost_child().say("restored", "a", WORKER, requeued=True).run("a", worker="worker1")
    row = story.judge().table.loc["a"]
    assert (row["fate"], row["place"]) == ("duplicated", "")


def test_a_copy_that_still_runs_after_the_first_has_ended() -> None:
    story = Story().ready().publish("a").run("a").receive("a").start("a")
    row = story.judge().table.loc["a"]
    assert (row["fate"], row["message"], row["place"]) == ("duplicated", "held", "running")
