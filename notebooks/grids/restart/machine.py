"""A Redis whose machine can be lost: its files keep what an fsync had returned for.

`SIGKILL` leaves the kernel's page cache, so it loses nothing that was written. Here a shim
(`lengths.c`) notes the length of a file at each fsync that returned. After `SIGKILL` each file of
the server is cut to the last of them. What was never synced is empty.
"""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from helpers import private_directory
from helpers.brokers.redis import RedisServer
from helpers.errors import StackError

SOURCE = Path(__file__).with_name("lengths.c")


class LosableRedis(RedisServer):
    """One with the shim: `lose_machine` instead of `kill`. Needs a C compiler, and Linux."""

    def _command_line(self, config: Path) -> list[str]:
        self.lengths = config.with_name("lengths.txt")
        shim = [f"LD_PRELOAD={_shim()}", f"LENGTHS={self.lengths}"]
        return ["env", *shim, *super()._command_line(config)]

    @property
    def synced(self) -> dict[int, int]:
        """The length that was last synced of each file, by inode: a file is renamed into place."""
        return {int(inode): int(length) for inode, length, _ in self._notes()}

    @property
    def synced_names(self) -> set[str]:
        """What each file was called when it was synced."""
        return {name for _, _, name in self._notes()}

    def _notes(self) -> list[list[str]]:
        text = self.lengths.read_text() if self.lengths.exists() else ""
        return [line.split(" ", 2) for line in text[: text.rfind("\n") + 1].splitlines()]

    @property
    def files(self) -> list[Path]:
        """Its snapshot, and the parts of its append-only file (Redis 7: base, incr, manifest)."""
        home = self.lengths.parent
        return sorted([*home.glob("*.rdb"), *home.glob("appendonly*/*")])

    def lose_machine(self) -> int:
        """`SIGKILL`, and away with what was not synced; how many bytes that were."""
        self.kill()
        synced, cut = self.synced, 0
        for file in self.files:
            now = file.stat()
            kept = min(now.st_size, synced.get(now.st_ino, 0))
            os.truncate(file, kept)
            cut += now.st_size - kept
        self.note("machine", f"machine of {self.name} lost")
        return cut


@cache
def _shim() -> Path:
    """The compiled shim. Raises StackError where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise StackError("no C compiler on this machine: sudo apt install gcc libc6-dev")
    shim = private_directory() / "lengths.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(shim), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StackError(f"the shim does not compile:\n{done.stderr}")
    return shim
