"""A TCP proxy before a server that breaks when it is told to: after so many bytes, and in a chosen way.

with CuttingProxy(server.port) as proxy:
    proxy.break_after(100_000, "cut")     resets all connections then, and all new ones until pass_on
    proxy.break_after(0, "hang")          takes connections and bytes, and never says anything
    proxy.answer(503)                     answers every request so, without asking the server
    proxy.pass_on()
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from contextlib import suppress
from typing import Literal

How = Literal["cut", "hang"]
_BLOCK = 16_384


class CuttingProxy:
    """One proxy, on a port of its own; a context manager. It counts the bytes of both directions together."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        """Stand before this port of the loopback interface; with ``tls`` as a server that speaks it."""
        self._target = target
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.broken = threading.Event()
        """Set when it came to what `break_after` said."""
        self.pass_on()

    @property
    def url(self) -> str:
        """Return where it is, as a web server."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    def pass_on(self) -> None:
        """Hand everything on, and count from now."""
        self._status = 0
        self._left: int | None = None
        self._how: How = "cut"
        self._stays = False
        self.moved = 0
        self.broken.clear()

    def break_after(self, count: int, how: How, *, stays: bool = True) -> None:
        """Break after that many bytes from now on; ``stays``: until `pass_on`, rather than once."""
        self.pass_on()
        self._how, self._stays = how, stays
        self._left = count

    def answer(self, status: int) -> None:
        """Answer every request of new connections with that status and nothing else."""
        self.pass_on()
        self._status = status

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):
                await (self._refuse(reader, writer) if self._status else self._connect(reader, writer))
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self._status)
        if writer.can_write_eof():
            writer.write_eof()
        while await reader.read(_BLOCK):  # who closes with bytes unread takes the answer back
            pass

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._left == 0:
            await self._break()
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._open.add(to_writer)
        try:
            ways = self._pump(reader, to_writer), self._pump(to_reader, writer)
            await asyncio.gather(*ways)
        finally:
            self._open.discard(to_writer)
            to_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(_BLOCK):
            passing = block if self._left is None else block[: self._left]
            self.moved += len(passing)
            if self._left is not None:
                self._left -= len(passing)
            writer.write(passing)
            await writer.drain()
            if self._left == 0:
                await self._break()
        if writer.can_write_eof():  # TLS can't
            writer.write_eof()

    async def _break(self) -> None:
        """Cut all connections, or never go on."""
        self.broken.set()
        if self._how == "hang":
            await asyncio.Event().wait()
        if not self._stays:
            self._left = None
        for writer in tuple(self._open):
            reset(writer)
        raise ConnectionResetError


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a network does that fails: with nothing delivered any more, and no farewell."""
    opened: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
