"""A server that agrees to every statement, so that a real psql reads a text to its end, whatever nonsense it is.

A real server would stop psql at the first nonsense, and nearly all that a fuzzer writes is that. It speaks as much
of the protocol as psql asks for: https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from arcbackupd.dumps import sqltext

_SETTINGS = {"server_version": "16.14", "server_encoding": "SQL_ASCII", "client_encoding": "SQL_ASCII",
             "standard_conforming_strings": "on", "integer_datetimes": "on", "DateStyle": "ISO"}  # fmt: skip


@dataclass
class Heard:
    """What a client sent: the statements, and the rows of each COPY, in order."""

    statements: list[bytes] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)


class AgreeingServer:
    """Listens in a directory; ``heard`` is what the last client sent."""

    def __init__(self, directory: Path) -> None:
        self.heard = Heard()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(directory / ".s.PGSQL.5432"))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = self._listening.accept()
                self.heard = Heard()
                with client, client.makefile("rwb") as stream, suppress(EOFError, ConnectionError):
                    Session(stream, self.heard).run()


class Session:
    """One client."""

    def __init__(self, stream: io.BufferedRWPair, heard: Heard) -> None:
        self._stream = stream
        self._heard = heard

    def run(self) -> None:
        """Agree to everything until the client says farewell."""
        self._read(struct.unpack("!I", self._read(4))[0] - 4)
        self._send(b"R", struct.pack("!I", 0))
        for name, value in _SETTINGS.items():
            self._tell(name, value)
        self._ready()
        while (kind := self._read(1)) != b"X":
            payload = self._read(struct.unpack("!I", self._read(4))[0] - 4)
            if kind == b"Q":
                self._agree(payload.removesuffix(b"\0"))

    def _agree(self, statement: bytes) -> None:
        self._heard.statements.append(statement)
        for name, value in filter(None, [sqltext.setting(statement)]):
            if name in _SETTINGS:
                self._tell(name, value)
        if sqltext.copy_header(statement):
            self._send(b"G", b"\0" + struct.pack("!H", 0))
            self._stream.flush()
            self._heard.data.append(b"".join(self._rows()))
        self._send(b"C", b"SET\0")
        self._ready()

    def _rows(self) -> Iterator[bytes]:
        while (kind := self._read(1)) not in (b"c", b"f"):
            piece = self._read(struct.unpack("!I", self._read(4))[0] - 4)
            if kind == b"d":
                yield piece
        self._read(struct.unpack("!I", self._read(4))[0] - 4)

    def _tell(self, name: str, value: str) -> None:
        self._send(b"S", f"{name}\0{value}\0".encode())

    def _ready(self) -> None:
        self._send(b"Z", b"I")
        self._stream.flush()

    def _send(self, kind: bytes, payload: bytes) -> None:
        self._stream.write(kind + struct.pack("!I", len(payload) + 4) + payload)

    def _read(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) < length:
            raise EOFError
        return data


@contextmanager
def agreeing_server(directory: Path) -> Iterator[AgreeingServer]:
    """One in a directory, for as long as the block runs."""
    server = AgreeingServer(directory)
    try:
        yield server
    finally:
        server.close()
