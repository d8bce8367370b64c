"""A hand-written ZMTP 3.1 peer over a plain socket, which can stop responding at any point.

Frames and greeting: rfc.zeromq.org/spec/23.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)


class ZmtpPeer:
    """A connection to an `ipc://` socket."""

    def __init__(self, endpoint: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        self._socket.connect(str(Path(endpoint.removeprefix("ipc://"))))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def shake_hands(self, identity: bytes) -> None:
        """Become a DEALER of this identity, and say nothing more."""
        properties = [(b"Socket-Type", b"DEALER"), (b"Identity", identity)]
        packed = [bytes([len(key)]) + key + len(value).to_bytes(4, "big") + value for key, value in properties]
        command = b"\x05READY" + b"".join(packed)
        self.send(GREETING + b"\x04" + bytes([len(command)]) + command)
        self.read(len(GREETING) + 2)

    def say(self, frame: bytes) -> None:
        """Send a message of one frame."""
        head = b"\x00" + bytes([len(frame)]) if len(frame) < 256 else b"\x02" + len(frame).to_bytes(8, "big")
        self.send(head + frame)

    def read(self, size: int) -> bytes:
        """Read so many bytes; fewer if the other side has closed."""
        data = b""
        while len(data) < size and (more := self._socket.recv(size - len(data))):
            data += more
        return data

    def is_closed(self) -> bool:
        """Read until the other side closes; False if it has not after 30 s."""
        with suppress(TimeoutError):
            try:
                while self._socket.recv(1 << 16):
                    pass
            except ConnectionResetError:
                pass
            return True
        return False

    def close(self) -> None:
        self._socket.close()
