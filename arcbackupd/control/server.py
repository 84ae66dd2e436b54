"""The control socket's server: Varlink over a Unix socket, from asyncio alone.

One task a connection: read a request, answer it, read the next. Everything that a stranger can make us
keep is bounded (bytes of a request, time to send it, time to take a reply, connections in all and per
user), and nothing that one does is waited for by another. Connections are accepted one a turn of the
event loop, here and not by ``asyncio.start_unix_server``: that one takes the whole backlog in one go,
logs once per waiting connection when descriptors run out, and knows no limits.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from arcbackupd.control import messages
from arcbackupd.control.access import AccessPolicy, Peer, peer_of
from arcbackupd.control.dispatch import Dispatcher, Log
from arcbackupd.control.interface import BackupsService, PeerGone
from arcbackupd.control.listening import Listener
from arcbackupd.errors import UsageError

_QUIET_SECONDS = 60.0  # after having said that no connection can be accepted


@dataclass(frozen=True)
class Limits:
    """What a client may cost."""

    request_bytes: int = 64 * 1024
    request_seconds: float = 5.0
    """From the first byte of a request to its last."""
    write_seconds: float = 10.0
    """For a client to take one reply."""
    connections: int = 128
    connections_per_user: int = 48
    accept_pause: float = 0.5
    """Before accepting is tried again, when it failed and nobody could give way."""


class ControlServer:
    """Serves a Listener. ``start`` it in a running loop; ``stop`` it once."""

    def __init__(
        self,
        listener: Listener,
        service: BackupsService,
        policy: AccessPolicy,
        log: Log,
        limits: Limits = Limits(),
    ) -> None:
        self.limits = limits
        self.stopping = False
        self.dispatcher = Dispatcher(service, policy, log)
        self._listener = listener
        self._log = log
        self._connections: dict[Connection, None] = {}  # oldest first
        self._tasks: set[asyncio.Task[None]] = set()
        self._complained = -_QUIET_SECONDS

    def start(self) -> None:
        """Accept from now on."""
        self._watch()

    def set_policy(self, policy: AccessPolicy) -> None:
        """Decide by another policy from the next call on. Who may open the socket file stays as it was."""
        self.dispatcher.gate.policy = policy

    async def stop(self, deadline: float = 5.0) -> None:
        """Accept no more, let calls in progress finish for ``deadline`` seconds, close everything."""
        self.stopping = True
        asyncio.get_running_loop().remove_reader(self._listener.socket)
        self._listener.close()
        _end(*(connection for connection in self._connections if not connection.serving))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=deadline)
        _end(*self._connections)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # in which the event loop closes what was let go of

    def _watch(self) -> None:
        if not self.stopping:
            asyncio.get_running_loop().add_reader(self._listener.socket, self._accept)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._pause_accepting(error)
            return
        self._admit(accepted)

    def _pause_accepting(self, error: OSError) -> None:
        # The one who waits stays in the backlog, and the socket readable: without a pause this would spin.
        loop = asyncio.get_running_loop()
        victim = _oldest_idle(self._connections)
        _end(victim)
        loop.remove_reader(self._listener.socket)
        loop.call_later(0.01 if victim else self.limits.accept_pause, self._watch)
        if loop.time() - self._complained > _QUIET_SECONDS:
            self._complained = loop.time()
            self._log(
                f"No connection can be accepted on the control socket: {error.strerror}.",
                hint="Calls wait meanwhile. If it lasts, raise LimitNOFILE= of arcbackupd.service.",
            )

    def _admit(self, accepted: socket.socket) -> None:
        try:
            peer = peer_of(accepted)
        except OSError:
            accepted.close()
            return
        self._make_room(peer)
        connection = Connection(self, accepted, peer)
        self._connections[connection] = None
        self._tasks.add(connection.task)
        connection.task.add_done_callback(lambda task: self._ended(connection, task))

    def _make_room(self, peer: Peer) -> None:
        theirs = [connection for connection in self._connections if connection.peer.uid == peer.uid]
        if len(theirs) >= self.limits.connections_per_user:
            self._give_way(theirs)
        if len(self._connections) >= self.limits.connections:
            self._give_way(list(self._connections))

    def _give_way(self, candidates: list[Connection]) -> None:
        # When every one of them is being served, the oldest loses its stream (never the work behind it):
        # a newcomer is not refused, or a few who attach and stay would keep root out.
        victim = _oldest_idle(candidates) or candidates[0]
        del self._connections[victim]
        _end(victim)

    def _ended(self, connection: Connection, task: asyncio.Task[None]) -> None:
        self._connections.pop(connection, None)
        self._tasks.discard(task)
        connection.close()
        if not task.cancelled() and (error := task.exception()):
            self._log("A connection on the control socket ended in an error.", error=error)


class Connection:
    """One client: its requests, one after the other."""

    def __init__(self, server: ControlServer, accepted: socket.socket, peer: Peer) -> None:
        self.peer = peer
        self.serving = False
        """Whether a complete request is being answered: such a connection doesn't give way."""
        self._server = server
        self._limits = server.limits
        self._socket = accepted
        self._oneway = False
        self._reader = _Reader(self._limits.request_bytes - 1, self)
        self._writer: asyncio.StreamWriter | None = None
        self.task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Let go of the socket, at once."""
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._socket.close()

    def heard_the_last(self) -> None:
        """Nothing more comes from the client. If it is gone altogether, so is the reason for its call."""
        if self.serving and not self._oneway and self._hung_up():
            self.task.cancel()

    def _hung_up(self) -> bool:
        # A client that only shut down its sending half still reads: for that there is no POLLHUP.
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    async def _run(self) -> None:
        with suppress(PeerGone, ConnectionError, asyncio.IncompleteReadError):
            await self._open()
            while not self._server.stopping and await self._serve_one():
                pass

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self._reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, self._socket)
        transport.set_write_buffer_limits(high=0)  # drain() waits until the kernel has taken everything
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)

    async def _serve_one(self) -> bool:
        """Answer the next request. Return whether there may be another."""
        try:
            message = await self._next_message()
            request = None if message is None else messages.parse(message)
        except UsageError as error:
            await self._write(messages.error_reply(error))
            return False
        if request is None:
            return False
        self.serving, self._oneway = True, bool(request.oneway)
        answer = await self._server.dispatcher.answer(request, self.peer, self._write)
        if not request.oneway:
            await self._write(answer)
        self.serving = False
        await asyncio.sleep(0)  # requests that came in one go take turns with other clients
        return True

    async def _next_message(self) -> bytes | None:
        first = await self._reader.read(1)  # for as long as it takes: an idle client costs only its place
        if not first:
            return None
        if first == b"\0":
            return b""
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                return first + (await self._reader.readuntil(b"\0"))[:-1]
        except TimeoutError as error:
            raise UsageError("request-too-slow", "The request took too long to arrive.") from error
        except asyncio.LimitOverrunError as error:
            raise UsageError("request-too-large", "The request is larger than 64 KiB.") from error

    async def _write(self, data: bytes) -> None:
        writer = self._writer
        if writer is None or writer.transport.is_closing():
            raise PeerGone
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                writer.write(data)
                await writer.drain()
        except (TimeoutError, ConnectionError) as error:
            writer.transport.abort()
            raise PeerGone from error


class _Reader(asyncio.StreamReader):
    """A stream that tells its connection when it has ended, also while nobody reads from it."""

    def __init__(self, limit: int, connection: Connection) -> None:
        super().__init__(limit)
        self._connection = connection

    def feed_eof(self) -> None:
        super().feed_eof()
        self._connection.heard_the_last()

    def set_exception(self, exc: BaseException) -> None:
        super().set_exception(exc)  # type: ignore[arg-type]
        self._connection.heard_the_last()


def _oldest_idle(candidates: Iterable[Connection]) -> Connection | None:
    return next((connection for connection in candidates if not connection.serving), None)


def _end(*connections: Connection | None) -> None:
    for connection in connections:
        if connection is not None:
            connection.task.cancel()
