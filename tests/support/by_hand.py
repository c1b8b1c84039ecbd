"""A node's HTTP and WebSocket, byte by byte, for what no client library would send.

Everything blocks, with a deadline: use from a thread, or where nothing else has to go on meanwhile.
"""

import socket
from dataclasses import dataclass
from typing import Self

from tests.support.serving import PATIENCE_S, close_code, handshake, read_all, read_head

PATH = "/v1/ws"


def dialled(port: int, *, source: str = "127.0.0.1", patience_s: float = PATIENCE_S) -> socket.socket:
    """A TCP connection from that address of this machine."""
    return socket.create_connection(("127.0.0.1", port), patience_s, source_address=(source, 0))


def asked(port: int, request: bytes) -> bytes:
    """All that is answered to some bytes, up to the end of the connection, for which they should ask."""
    with dialled(port) as raw:
        try:
            raw.sendall(request)
        except OSError:  # the server was faster
            pass
        return read_all(raw)


def told_to_close(raw: socket.socket) -> int | None:
    """The code that a WebSocket is closed with, as soon as it comes; None where it just ends."""
    said = b""
    while (part := raw.recv(4_096)) and close_code(said := said + part) is None:
        pass
    return close_code(said)


@dataclass(frozen=True, slots=True)
class Opened:
    """A handshake's answer, and its connection."""

    raw: socket.socket
    head: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1]) if self.head else 0

    def rest(self) -> bytes:
        """All that comes after the head, up to the end."""
        with self.raw:
            return read_all(self.raw)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()


def opened(port: int, headers: bytes = b"", *, path: str = PATH, host: bytes | None = None) -> Opened:
    """A WebSocket's handshake with some more header lines, and another Host."""
    request = handshake(path).removesuffix(b"\r\n") + headers + b"\r\n"
    if host is not None:
        request = request.replace(b"Host: 127.0.0.1\r\n", b"Host: " + host + b"\r\n")
    raw = dialled(port)
    raw.sendall(request)
    return Opened(raw, read_head(raw))
