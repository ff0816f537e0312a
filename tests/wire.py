"""A WebSocket by hand, byte for byte, for what no library would send."""

from __future__ import annotations

import base64
import os
import socket
import struct
from time import monotonic
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Wire:
    """A plain TCP connection to a server; close it, or use `with`."""

    def __init__(self, url: str, timeout_s: float = 20.0, receive_bytes: int | None = None) -> None:
        """receive_bytes: how much the system may hold for us."""
        parts = urlsplit(url)
        self.path, self.authority = parts.path, parts.netloc
        self.socket = socket.socket()
        self.socket.settimeout(timeout_s)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect((parts.hostname, parts.port))
        self._held = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def request(self, *lines: str, path: str | None = None, host: str | None = None) -> int:
        """Ask for the upgrade; the status of the answer. Its body is left unread."""
        key = base64.b64encode(os.urandom(16)).decode()
        head = [
            f"GET {path or self.path} HTTP/1.1", f"Host: {host or self.authority}", "Upgrade: websocket",
            "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", *lines,
        ]  # fmt: skip
        self.socket.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
        return int(self.until(b"\r\n\r\n").split(b" ")[1])

    def frame(self, opcode: int, payload: bytes, *, final: bool = True, reserved: int = 0, masked: bool = True,
              claims: int | None = None) -> None:  # fmt: skip
        """One frame (RFC 6455, section 5.2). claims: the length that its header tells, when it lies."""
        length = len(payload) if claims is None else claims
        first = (0x80 if final else 0) | reserved << 4 | opcode
        mask_bit = 0x80 if masked else 0
        if length < 126:
            head = struct.pack(">BB", first, mask_bit | length)
        elif length < 65_536:
            head = struct.pack(">BBH", first, mask_bit | 126, length)
        else:
            head = struct.pack(">BBQ", first, mask_bit | 127, length)
        mask = os.urandom(4) if masked else b""
        body = bytes(b ^ mask[i % 4] for i, b in enumerate(payload)) if masked else payload
        self.socket.sendall(head + mask + body)

    def close_code(self, seconds: float = 10.0) -> int | None:
        """Read until the server closes: its code, None where it gave none."""
        until = monotonic() + seconds
        while monotonic() < until:
            try:
                opcode, payload = self.next_frame()
            except (ConnectionError, EOFError):
                return None
            if opcode == CLOSE:
                return struct.unpack(">H", payload[:2])[0] if payload else 1005
        raise AssertionError("the server did not close")

    def next_frame(self) -> tuple[int, bytes]:
        """Opcode and payload. Raises EOFError."""
        first, second = self.take(2)
        length = second & 127
        if length == 126:
            length = struct.unpack(">H", self.take(2))[0]
        elif length == 127:
            length = struct.unpack(">Q", self.take(8))[0]
        return first & 15, self.take(length)

    def take(self, count: int) -> bytes:
        while len(self._held) < count:
            self._held += self._receive()
        found, self._held = self._held[:count], self._held[count:]
        return found

    def until(self, end: bytes) -> bytes:
        while end not in self._held:
            self._held += self._receive()
        found, _, self._held = self._held.partition(end)
        return found

    def _receive(self) -> bytes:
        data = self.socket.recv(65_536)
        if not data:
            raise EOFError("the server has closed the connection")
        return data
