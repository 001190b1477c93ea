"""Runs the given arm and the learner's side by side, with a deadline, and leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import psutil

from helpers import ledger, reaper
from helpers.checks.exercise import Answer, Evidence
from helpers.status import Status

DEADLINE = 18.0  # seconds; a check has promised to answer in twenty


def run(
    lab: str, name: str, answers: dict[str, Answer], deadline: float = DEADLINE
) -> dict[str, Evidence]:
    """The evidence of each arm, by its name in `answers`, after `deadline` seconds at most."""
    here = reaper.private_directory()
    arms: dict[str, Popen[bytes]] = {}
    try:
        for arm, answer in answers.items():
            arms[arm] = _start(lab, name, here / arm, answer)
        _wait(here, arms, deadline)
        return {arm: _evidence(here / arm, process) for arm, process in arms.items()}
    finally:
        for process in arms.values():
            reaper.kill_group(process)
        end_processes_of(here)
        reaper.remove(here)


def _start(lab: str, name: str, here: Path, answer: Answer) -> Popen[bytes]:
    here.mkdir(mode=0o700)
    (here / "answer.json").write_text(json.dumps(answer))
    # By this variable every process that an answer starts can be found again.
    environment = {**os.environ, "TMPDIR": str(here), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "helpers.checks.arm", lab, name, str(_report(here))]
    with _log(here).open("wb") as log:
        return reaper.spawn(command, cwd=here, env=environment, log=log)


def _report(here: Path) -> Path:
    return here.with_suffix(".json")


def _log(here: Path) -> Path:
    return here.with_suffix(".log")


def _wait(here: Path, arms: dict[str, Popen[bytes]], deadline: float) -> None:
    end = time.monotonic() + deadline
    with Status("running live", deadline=deadline) as status:
        while time.monotonic() < end:
            if all(process.poll() is not None for process in arms.values()):
                return
            status.update(" · ".join(f"{arm}: {_progress(here / arm)}" for arm in arms))
            time.sleep(0.1)


def _progress(here: Path) -> str:
    """How far an arm is, as its ledger says."""
    if _report(here).exists():
        return "ready"
    with contextlib.suppress(OSError):
        if path := _ledger(here):
            done, sent = ledger.count(path, "finished"), ledger.count(path, "accepted")
            return f"{done} of {sent} finished"
    return "starting"


def _ledger(here: Path) -> Path | None:
    """The newest ledger of an arm: an experiment may need several stacks."""
    found = sorted(here.glob(".*/ledger.jsonl"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _evidence(here: Path, process: Popen[bytes]) -> Evidence:
    if _report(here).exists():
        return Evidence(**json.loads(_report(here).read_text()))
    if process.poll() is None:
        return Evidence(error=f"never finished: {_stuck(here, process)}")
    log = _log(here).read_text(errors="replace").splitlines()[-5:]
    return Evidence(
        error="the process that ran it ended in the middle, with exit code "
        f"{process.returncode}. Does the code end it, or kill it?\n" + "\n".join(log)
    )


def _stuck(here: Path, process: Popen[bytes]) -> str:
    """Where an arm was when its time was over: in the learner's file, or in a task."""
    os.kill(process.pid, signal.SIGUSR1)  # `arm` answers with its stack
    time.sleep(0.3)
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', _log(here).read_text())
    for path, line, function in frames:
        if Path(path).parent == here:
            return f"when its time was over, it was in {function}, {Path(path).name} line {line}"
    return f"when its time was over, it was still waiting. {_running(here)}"


def _running(here: Path) -> str:
    path = _ledger(here)
    open_tasks: dict[str, str] = {}
    for event in ledger.read(path) if path else []:
        if event["event"] == "started":
            open_tasks[event["id"]] = event["task"]
        elif event["event"] in ("finished", "failed", "retried"):
            open_tasks.pop(event["id"], None)
    if open_tasks:
        return "Started and not finished: " + ", ".join(sorted(set(open_tasks.values())))
    return "No task was running."


def end_processes_of(here: Path, timeout: float = 5) -> None:
    """Kill every process of ours that was started in `here`, however it tried to get away.

    Raises TimeoutError when some are still there after `timeout` seconds.
    """
    deadline, nobody = time.monotonic() + timeout, 0
    while nobody < 2:  # one that starts its program right now shows no environment for a moment
        left = list(_processes_of(here))
        nobody = 0 if left else nobody + 1
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        if left and time.monotonic() > deadline:
            names = ", ".join(str(process.pid) for process in left)
            raise TimeoutError(f"these processes do not end: {names}")
        time.sleep(0.05)


def _processes_of(here: Path) -> Iterator[psutil.Process]:
    # A fork keeps the environment that its program was started with, even in a session of its own.
    # redis-server writes its title over its environment, but stays in its directory.
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            places = [process.cwd(), *process.environ().values()]
            if any(str(here) in place for place in places):
                yield process
