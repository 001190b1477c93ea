"""The one exception that this package raises on purpose."""


class StackError(RuntimeError):
    """Something a reader can mend. The text says what happened and what to do next."""
