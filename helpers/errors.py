"""What this package raises, and warns of, on purpose."""


class StackError(RuntimeError):
    """Something a reader can mend. The text says what happened and what to do next."""


class BrokerSilent(StackError):
    """The broker does not answer, so what it holds cannot be counted."""


class AnotherBroker(UserWarning):
    """An application names a broker of its own. It is not used."""
