"""Between a producer and its Redis: it can drop an answer, as a network that breaks does."""

import socket
import threading
from contextlib import suppress
from typing import Self


class AnswerDropper:
    """Passes all on. Once armed, it passes one publish on and resets the connection instead of
    passing the answer back: the order is in its queue, and the producer does not know.
    """

    def __init__(self, port: int) -> None:
        self.dropped = 0
        self._armed = threading.Event()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self) -> None:
        """Drop the answer to the next publish."""
        self._armed.set()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._target)) as up:
            back = threading.Thread(target=_copy, args=(up, client), daemon=True)
            back.start()
            while data := client.recv(65536):
                if b"LPUSH" in data and self._armed.is_set():
                    self._armed.clear()
                    client.shutdown(socket.SHUT_RDWR)  # from here on nothing is passed back
                    up.sendall(data)
                    back.join(timeout=5)  # it ends with the answer that it cannot pass on
                    self.dropped += 1
                    return
                up.sendall(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
