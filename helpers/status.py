"""One line that says how a wait goes, updated in place. Short waits stay silent."""

from time import monotonic
from types import TracebackType
from typing import Self

from IPython import get_ipython
from IPython.display import DisplayHandle, display

_SILENT = 3.0  # seconds
_PERIOD = 0.2  # seconds between two updates: more often nobody can read them
_BAR = 20  # characters


class Status:
    """A status line for `with`: call `update` in the loop that waits.

    `deadline` is in seconds and only shown; who waits also ends the wait. Outside a notebook
    nothing is shown.
    """

    def __init__(self, text: str, deadline: float | None = None) -> None:
        self.text, self.deadline = text, deadline
        self.detail = ""
        self._handle: DisplayHandle | None = None
        self._silent = getattr(get_ipython(), "kernel", None) is None

    def __enter__(self) -> Self:
        self._start = monotonic()
        self._next = self._start + _SILENT
        return self

    def update(self, detail: str) -> None:
        """Say how far it is, such as "3 of 200 done"."""
        self.detail = detail
        now = monotonic()
        if self._silent or now < self._next:
            return
        self._next = now + _PERIOD
        self._show(f"{self.text} · {self._elapsed(now - self._start)} · {detail}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self._show(f"waited {monotonic() - self._start:.0f} s · {self.detail}")

    def _elapsed(self, seconds: float) -> str:
        if not self.deadline:
            return f"{seconds:.0f} s"
        full = min(_BAR, int(_BAR * seconds / self.deadline))
        bar = "█" * full + "░" * (_BAR - full)
        return f"{bar} {seconds:.0f} of {self.deadline:g} s"

    def _show(self, line: str) -> None:
        bundle = {"text/plain": line}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
