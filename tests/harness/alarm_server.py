"""A real HTTP server that alarms are sent to, as good or as bad as a test wants it.

with AlarmServer() as server:
    server.behave = "hang"
    ...
    server.received[0].path
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.harness.process import wait_until


@dataclass(frozen=True)
class Received:
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Return its body."""
        return self.body.decode()

    @property
    def json(self) -> dict[str, Any]:
        """Return its body, read as JSON."""
        return dict(json.loads(self.body))


class AlarmServer:
    """Answers by ``behave``: "well", or a status; or it hangs, drips, cuts or answers without end.

    "hang": no answer; "drip": one that comes byte by byte; "cut": the connection is closed; "huge": without end;
    bytes: those, and the connection stays open.
    Anything else is where a redirect leads to.
    """

    def __init__(self) -> None:
        self.behave: str | int | bytes = "well"
        self.received: list[Received] = []
        self.ending = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> AlarmServer:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Return its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def paths(self) -> list[str]:
        """Return the paths of what came, without their queries."""
        return [request.path.partition("?")[0] for request in self.received]

    def wait(self, path: str, count: int = 1, seconds: float = 60) -> Received:
        """Wait until so many requests to a path have come; return the newest."""

        def found() -> list[Received]:
            came = [request for request in self.received if request.path.partition("?")[0] == path]
            return came if len(came) >= count else []

        return wait_until(found, f"{count} requests to {path}", seconds=seconds, interval=0.02)[-1]


def _handler(server: AlarmServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.received.append(Received("POST", self.path, dict(self.headers.items()), body))
            with contextlib.suppress(OSError):  # the client has had enough
                _behave(self, server)

        def do_CONNECT(self) -> None:
            with contextlib.suppress(OSError):
                _behave(self, server)

        def do_GET(self) -> None:
            server.received.append(Received("GET", self.path, dict(self.headers.items()), b""))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    return Handler


def _behave(handler: BaseHTTPRequestHandler, server: AlarmServer) -> None:
    match server.behave:
        case "hang":
            server.ending.wait()
        case "cut":
            handler.connection.close()
        case "drip":
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
            while not server.ending.wait(0.1):
                handler.wfile.write(b"x")
        case bytes(answer):
            handler.wfile.write(answer)
            server.ending.wait()
        case "huge":
            handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
            while not server.ending.is_set():
                handler.wfile.write(bytes(1 << 20))
        case int(status):
            handler.send_response(status)
            handler.end_headers()
        case "well":
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(b"OK")
        case target:
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.end_headers()


SENDMAIL = """#!/bin/sh
# As sendmail: keeps what it is told in a file of its own, renamed when it is whole.
printf '%s\\n' "$@" > "{spool}/arguments"
cat > "{spool}/.$$" && mv "{spool}/.$$" "{spool}/$(date +%s%N).eml"
"""


def make_sendmail(directory: Path, script: str = SENDMAIL) -> Path:
    """Write a program that takes mail as sendmail does, into ``spool`` beside it; return its path."""
    spool = directory / "spool"
    spool.mkdir(exist_ok=True)
    program = directory / "sendmail"
    program.write_text(script.replace("{spool}", str(spool)))
    program.chmod(0o755)
    return program


def mails(directory: Path) -> list[bytes]:
    """Return what such a program took, in order."""
    return [path.read_bytes() for path in sorted((directory / "spool").glob("*.eml"))]
