"""Binder on this machine: the steps of its image, then each notebook within its limits.

`make binder`: half an hour. The steps are those of repo2docker's Dockerfile from where it copies
the repository, run as its user in a fresh home. Each notebook runs in a JupyterLab that was started
as the image starts it; server, kernel, Redis and workers share one control group. Without root
there is neither that user nor a group: the figures are still measured, and the table says so.
"""

import contextlib
import json
import os
import queue
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import nbformat
import psutil
from jupyter_client import BlockingKernelClient

from helpers.authoring import image
from helpers.authoring.notebooks import CELL_SECONDS as SECONDS
from helpers.brokers.redis import SERVERS

MEMORY = 450 * 2**20  # what Binder guarantees
CPUS = (1.0, 0.25)  # its limit, and a crowded machine
ROOT = os.geteuid() == 0
START_SECONDS = 120
HEAD = ("notebook", "CPU", "verdict", "seconds", "peak MB", "OOM kills")


class Group:
    """A control group, version 1 or 2. Raises OSError where one may not be made."""

    def __init__(self, cpus: float) -> None:
        base, name = Path("/sys/fs/cgroup"), f"binder-walk-{os.getpid()}"
        self._unified = (base / "cgroup.controllers").exists()
        kinds = [""] if self._unified else ["memory", "cpu"]
        self._folders = [base / kind / name for kind in kinds]
        try:
            for folder in self._folders:
                folder.mkdir()
            quota = int(cpus * 100_000)
            if self._unified:
                self._write("memory.max", MEMORY)
                self._write("memory.swap.max", 0)
                self._write("cpu.max", f"{quota} 100000")
            else:
                self._write("memory.limit_in_bytes", MEMORY)
                self._write("cpu.cfs_period_us", 100_000, folder=-1)
                self._write("cpu.cfs_quota_us", quota, folder=-1)
        except OSError:
            self.remove()
            raise

    def _write(self, name: str, value: object, folder: int = 0) -> None:
        (self._folders[folder] / name).write_text(str(value))

    def add(self, pid: int) -> None:
        """Put a process in; what it starts from now on is in too."""
        for index in range(len(self._folders)):
            self._write("cgroup.procs", pid, index)

    def pids(self) -> list[int]:
        """The processes that are in it."""
        return [int(pid) for pid in (self._folders[0] / "cgroup.procs").read_text().split()]

    def killed(self) -> int:
        """How many processes the kernel killed for want of memory."""
        name = "memory.events" if self._unified else "memory.oom_control"
        lines = (self._folders[0] / name).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def remove(self) -> None:
        """End what is in it, then the group itself."""
        for folder in self._folders:
            while folder.exists():
                for pid in (folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), 9)
                with contextlib.suppress(OSError):  # the killed are still on their way out
                    folder.rmdir()
                time.sleep(0.05)


class Place:
    """A home with a copy of the repository, an environment beside it, and their user."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "jovyan"
        self.home.mkdir()
        self._prefix = folder / "notebook"
        user: dict[str, Any] = {"user": image.UID, "group": image.UID, "extra_groups": []}
        self._as = user if ROOT else {}
        names = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(names, cwd=image.ROOT, text=True).split("\0"):
            if (source := image.ROOT / name).is_file():
                (self.home / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, self.home / name)
        # The image has no Redis server but the one from the wheel.
        programs = folder / "bin"
        programs.mkdir()
        for program in Path("/usr/bin").iterdir():
            if program.name not in SERVERS:
                (programs / program.name).symlink_to(program)
        # Settings of pip and proxies say how this machine reaches its package index.
        network = ("PIP_", "SSL_", "HTTP_", "HTTPS_", "NO_")
        self.env = {k: v for k, v in os.environ.items() if k.upper().startswith(network)}
        self.env |= {
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "NB_PYTHON_PREFIX": str(self._prefix),
            "KERNEL_PYTHON_PREFIX": str(self._prefix),
            "PATH": f"{self._prefix}/bin:{programs}",
            "REPO_DIR": str(self.home),
            "SHELL": "/bin/bash",
            "USER": "jovyan",
        }
        if ROOT:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, image.UID, image.UID, follow_symlinks=False)
        self._make_environment(folder)

    def run(self, *command: str) -> None:
        """Run a command to its end as the user. Raises CalledProcessError when it fails."""
        subprocess.run(command, cwd=self.home, env=self.env, check=True, **self._as)

    def start(self, *command: str, group: Group | None, log: Path) -> subprocess.Popen[bytes]:
        """Start a command as the user; in `group` before its first instruction."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "sh", *command],
                cwd=self.home,
                env=self.env,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **self._as,
            )
        if group:
            group.add(process.pid)
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.close()
        return process

    def _make_environment(self, folder: Path) -> None:
        named = image.runtime()
        python = shutil.which(named) or sys.executable
        ask = "import sys; print(sys.base_prefix, sys.version_info[0], sys.version_info[1])"
        try:
            seen = subprocess.check_output([python, "-c", ask], text=True)
        except subprocess.CalledProcessError:  # a version manager's stub
            seen = subprocess.check_output([sys.executable, "-c", ask], text=True)
        prefix, major, minor = seen.split()
        name = f"python{major}.{minor}"
        print(f"runtime.txt names {named}, this walk uses {name} of {prefix}", file=sys.stderr)
        try:
            self.run(f"{prefix}/bin/{name}", "-c", "")
        except OSError:  # it lies in root's home, where the user may not look
            shutil.copytree(prefix, folder / "python", symlinks=True)
            prefix = str(folder / "python")
            self.env["LD_LIBRARY_PATH"] = f"{prefix}/lib"
        self.run(f"{prefix}/bin/{name}", "-m", "venv", str(self._prefix))

    def forget_files(self) -> None:
        """Drop the files from the cache: a group pays for what it is the first to read."""
        os.sync()
        for path in self.home.parent.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def build(place: Place) -> None:
    """What the image runs once the repository is in it."""
    steps = image.instructions()
    copied = steps.index(image.COPY)
    for verb, rest in steps[copied:]:
        if verb == "RUN":
            print(rest, file=sys.stderr, flush=True)
            place.run("/bin/sh", "-ec", rest)
        elif verb == "ENV":
            name, _, value = rest.partition("=")
            value = value.strip('"').replace("${REPO_DIR}", place.env["REPO_DIR"])
            place.env[name] = value


class Server:
    """A JupyterLab of that place, on a free port."""

    def __init__(self, place: Place, group: Group | None, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._token = secrets.token_hex(16)
        self._base = f"http://127.0.0.1:{port}"
        self._runtime = place.home / ".local" / "share" / "jupyter" / "runtime"
        self._group, self._log = group, log
        command = [place.env["R2D_ENTRYPOINT"], "jupyter", "lab", "--no-browser"]
        command += [f"--ServerApp.port={port}", f"--IdentityProvider.token={self._token}"]
        self._process = place.start(*command, group=group, log=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.ask("/api/status")
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"JupyterLab did not start:\n{log.read_text()}") from None
                time.sleep(0.2)

    def ask(self, path: str, method: str = "GET", body: Any = None) -> bytes:
        """The answer to one request. Raises OSError when there is none, or it is an error."""
        headers = {"Authorization": f"token {self._token}"}
        data = json.dumps(body).encode() if body else None
        with urlopen(Request(self._base + path, data, headers, method=method), timeout=60) as seen:
            return seen.read()

    @contextlib.contextmanager
    def kernel(self, name: str) -> Iterator[BlockingKernelClient]:
        """The kernel that opens with a notebook. It is shut down in the end, as a learner would."""
        about = {"path": name, "name": name, "type": "notebook", "kernel": {"name": "python3"}}
        session = json.loads(self.ask("/api/sessions", "POST", about))
        client = BlockingKernelClient()
        client.load_connection_file(str(self._runtime / f"kernel-{session['kernel']['id']}.json"))
        client.start_channels()
        try:
            client.kernel_info(reply=True, timeout=START_SECONDS)
            yield client
        finally:
            client.stop_channels()
            with contextlib.suppress(OSError):  # it may have been killed
                self.ask(f"/api/sessions/{session['id']}", "DELETE")

    def processes(self) -> list[psutil.Process]:
        """The server and all that came of it."""
        found = []
        if self._group:
            for pid in self._group.pids():
                with contextlib.suppress(psutil.Error):
                    found.append(psutil.Process(pid))
            return found
        server = psutil.Process(self._process.pid)
        return [server, *server.children(recursive=True)]

    @contextlib.contextmanager
    def peak(self) -> Iterator[list[float]]:
        """The highest sum of PSS in MB, once the block has ended."""
        peak, done = [0.0], threading.Event()

        def sample() -> None:
            while not done.wait(0.2):
                total = 0
                for process in self.processes():
                    with contextlib.suppress(psutil.Error):  # it ended while we looked
                        total += process.memory_full_info().pss
                peak[0] = max(peak[0], total / 2**20)

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield peak
        finally:
            done.set()
            thread.join()

    def killed(self) -> int:
        """How many of them the kernel killed for want of memory."""
        return self._group.killed() if self._group else 0

    def stop(self) -> None:
        """End it, whatever it does."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()


def opened(server: Server) -> None:
    """What the launch address promises: the page is there, beside the helpers, and no news."""
    server.ask("/lab/tree/notebooks/00_start_here.ipynb")
    beside = json.loads(server.ask("/api/contents/"))["content"]
    assert {"helpers", "notebooks"} <= {one["name"] for one in beside}
    plugin = "@jupyterlab/apputils-extension:notification"
    settings = json.loads(server.ask(f"/lab/api/settings/{plugin}"))
    assert settings["schema"]["properties"]["fetchNews"]["default"] == "false", settings


def run_all(server: Server, client: BlockingKernelClient, notebook: Path) -> str:
    """Run every code cell, as Run All does. "passed", or which cell raised what."""
    for number, cell in enumerate(nbformat.read(notebook, as_version=4).cells, start=1):
        if cell.cell_type != "code":
            continue
        sent, deadline = client.execute(cell.source, allow_stdin=False), time.monotonic() + SECONDS
        reply = None
        while reply is None or reply["parent_header"]["msg_id"] != sent:
            if server.killed():
                return f"cell {number}: out of memory"
            if time.monotonic() > deadline:
                return f"cell {number}: no end after {SECONDS} s"
            with contextlib.suppress(queue.Empty):
                reply = client.get_shell_msg(timeout=1)
        if (said := reply["content"])["status"] != "ok":
            print(*said.get("traceback", []), sep="\n", file=sys.stderr)
            return f"cell {number}: {said.get('ename')}"
    return "passed"


def limited() -> bool:
    """True where control groups may be made."""
    try:
        Group(CPUS[0]).remove()
    except OSError:
        return False
    return True


def walk(place: Place, notebook: str, cpus: float | None) -> tuple[str, ...]:
    """One row of the table. Without `cpus` nothing is limited."""
    group = Group(cpus) if cpus else None
    try:
        place.forget_files()
        server = Server(place, group, place.home.parent / "server.log")
        try:
            opened(server)
            before = set(server.processes())
            with server.peak() as peak:
                with server.kernel(notebook) as client:
                    start = time.monotonic()
                    verdict = run_all(server, client, place.home / notebook)
                    took = time.monotonic() - start
                deadline = time.monotonic() + 10
                while (left := set(server.processes()) - before) and time.monotonic() < deadline:
                    time.sleep(0.2)
            if left:
                verdict += f", {len(left)} processes left"
        finally:
            server.stop()
        row = (Path(notebook).stem, f"{cpus:g}" if cpus else "all", verdict, f"{took:.0f}")
        return (*row, f"{peak[0]:.0f}", str(server.killed()))
    finally:
        if group:
            group.remove()


def show(rows: Sequence[Sequence[str]]) -> None:
    """Print the table."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)))


def main(notebooks: Sequence[str]) -> int:
    """Build, walk, print. 0 if every notebook passed with nothing killed, else 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that it tidies up
    load = os.getloadavg()[0]
    rows: list[tuple[str, ...]] = [HEAD]
    with tempfile.TemporaryDirectory(prefix="binder-walk-") as folder:
        place = Place(Path(folder))
        build(place)
        for cpus in CPUS if limited() else [None]:
            for notebook in notebooks:
                rows.append(walk(place, notebook, cpus))
                print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    show(rows)
    print(f"\nload {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    if limited():
        print(f"memory limited to {MEMORY >> 20} MB; the peak is a sum of PSS, sampled")
    else:
        print("NOT ENFORCED: no control group may be made here; the peak is a sum of PSS, sampled")
    print(f"run as user {image.UID if ROOT else os.getuid()}")
    return 0 if all(row[2] == "passed" and row[5] == "0" for row in rows[1:]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
