"""The control protocol: whatever a client sends, it gets Varlink replies or loses the line; others are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from arcbackupd.control import INTERFACE
from arcbackupd.control.interface import ERRORS, SERVICE_INTERFACE
from arcbackupd.control.listening import listen
from arcbackupd.control.server import ControlServer, Limits
from tests.fuzz.cuts import pieces
from tests.fuzz.pump import pumped
from tests.unit.control_service import EVERYBODY_IS_ROOT, SmallService

SECONDS = 240.0
"""For a client to be rid of; only a server that hangs comes near it."""
_FAULTS = ("InterfaceNotFound", "MethodNotFound", "MethodNotImplemented", "InvalidParameter")
ERROR_NAMES = {f"{INTERFACE}.{kind.__name__}" for kind in ERRORS} | {f"{SERVICE_INTERFACE}.{n}" for n in _FAULTS}
_LIST = json.dumps({"method": f"{INTERFACE}.List"}).encode() + b"\0"


class Service(SmallService):
    """Streams only a little: what a client makes by not reading is a test of its own."""

    async def attach(self, call: Any) -> dict[str, Any]:
        """Send one event."""
        await call.send({"event": {"type": "notice", "text": "x", "hint": ""}})
        return {"operation": None}


class Daemon:
    """The server on a socket of its own, and a client that behaves."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._escaped)
        self.complaints: list[str] = []
        self.path = Path(tempfile.mkdtemp(prefix="fuzz-control-")) / "s"
        self.service = Service()
        listener = listen(self.path, None)
        limits = Limits(request_seconds=0.05)
        self.server = ControlServer(listener, self.service, EVERYBODY_IS_ROOT, self._note, limits)
        self.loop.call_soon(self.server.start)

    def _escaped(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.complaints.append(f"{context}")

    def _note(self, message: str, *, hint: str = "", error: BaseException | None = None) -> None:
        self.complaints.append(f"{message} {error!r}")

    async def hears(self, data: bytes) -> None:
        """Send the data as one client while another one asks something."""
        async with asyncio.timeout(SECONDS):
            replies, others = await asyncio.gather(talk(self.path, pieces(data)), talk(self.path, [_LIST]))
        assert len(others) == 1
        assert "backups" in others[0]["parameters"]
        for reply in replies:
            is_varlink(reply)
        final = [reply for reply in replies if "continues" not in reply]
        assert len(final) <= data.count(b"\0") + 1


@cache
def daemon() -> Daemon:
    """The server, started once a process."""
    return Daemon()


def one(data: bytes) -> None:
    """Let a client send the data."""
    running = daemon()
    running.service.calls.clear()
    running.service.begun.clear()
    running.service.cancelled.clear()
    running.loop.run_until_complete(running.hears(pumped(data)[: 200 << 10]))
    assert not running.complaints, running.complaints
    assert len(running.server._connections) <= 2


async def talk(path: Path, blocks: list[bytes]) -> list[dict[str, Any]]:
    """Send the blocks, end, and return the replies."""
    reader, writer = await asyncio.open_unix_connection(path)
    reading = asyncio.ensure_future(reader.read(-1))
    with contextlib.suppress(ConnectionError):
        for block in blocks:
            writer.write(block)
            await writer.drain()
            await asyncio.sleep(0)
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    try:
        heard = await reading
    except ConnectionError:
        heard = b""
    writer.transport.abort()
    *messages, rest = heard.split(b"\0")
    assert rest == b""
    return [json.loads(message) for message in messages]


def is_varlink(reply: dict[str, Any]) -> None:
    """Hold a reply to the specification, and to the errors that the interface has."""
    assert reply.keys() <= {"parameters", "continues", "error"}
    assert isinstance(reply["parameters"], dict)
    if "error" in reply:
        assert reply["error"] in ERROR_NAMES
        assert reply["parameters"].get("code") != "internal"
        assert len(json.dumps(reply)) < 2000
