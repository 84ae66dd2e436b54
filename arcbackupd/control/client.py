"""The one dialler: blocking Varlink calls to the daemon, from the standard library alone.

    with Connection() as daemon:
        reply = daemon.call("List")
        for reply in daemon.stream("Backup"):
            ...

Whatever goes wrong arrives as one of the classes in ``errors``.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from arcbackupd.control import DEFAULT_SOCKET, INTERFACE
from arcbackupd.errors import KINDS, ArcbackupdError, DaemonUnreachable, OperationFailed, Refused, UsageError

_GET_INFO = b'{"method":"org.varlink.service.GetInfo"}\0'
_CHUNK = 256 * 1024
_WAKE_SECONDS = 1.0
_DIAL_SECONDS = 10.0
REPLY_SECONDS = 120.0
_GREETING_SECONDS = 30.0
"""How long a daemon that was just woken may take until it says who it is. One that runs says it at once."""
_START = "Start it: sudo systemctl start arcbackupd. If it fails: journalctl -u arcbackupd -e"


def socket_path(given: str | None = None) -> str:
    """Where to dial: what was given, else ``ARCBACKUPD_SOCKET``, else the default."""
    return given or os.environ.get("ARCBACKUPD_SOCKET") or DEFAULT_SOCKET


class Connection:
    """A connection to the daemon, for one call after another."""

    daemon_version: str | None = None
    """The daemon's version; known after the first reply."""

    def __init__(self, path: str | None = None, *, dial_seconds: float = _DIAL_SECONDS) -> None:
        """Dial. Raise DaemonUnreachable when nobody answers, Refused when the socket may not be opened."""
        self.path = socket_path(path)
        self._socket = _dial(self.path, dial_seconds)
        self._buffer = bytearray()
        self._greeted = False

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. A stream that runs ends; the operation behind it goes on."""
        self._socket.close()

    def call(
        self, method: str, parameters: Mapping[str, object] | None = None, *, seconds: float | None = REPLY_SECONDS
    ) -> dict[str, Any]:
        """Return the reply. Raise the error that the daemon answered with, or DaemonUnreachable."""
        self._socket.settimeout(seconds)
        self._request(method, parameters, more=False)
        return _result(method, self._next_message(method))

    def stream(self, method: str, parameters: Mapping[str, object] | None = None) -> Iterator[dict[str, Any]]:
        """Yield each reply, the last one included, for as long as it takes. Raise as ``call`` does."""
        self._socket.settimeout(None)
        self._request(method, parameters, more=True)
        continues = True
        while continues:
            message = self._next_message(method)
            continues = message.get("continues") is True
            yield _result(method, message)

    def _request(self, method: str, parameters: Mapping[str, object] | None, *, more: bool) -> None:
        call: dict[str, object] = {"method": f"{INTERFACE}.{method}", "parameters": parameters or {}}
        if more:
            call["more"] = True
        data = json.dumps(call).encode() + b"\0"
        # Who answers is asked in the same breath as the first call: no extra round trip.
        greeting = b"" if self._greeted else _GET_INFO
        try:
            self._socket.sendall(greeting + data)
        except OSError as error:
            raise _lost(method) from error
        if not self._greeted:
            self._greeted = True
            self._take_greeting(method)

    def _take_greeting(self, method: str) -> None:
        # Where systemd listens for a daemon that can't start, a call without a limit would wait for ever.
        limit = self._socket.gettimeout()
        self._socket.settimeout(_GREETING_SECONDS if limit is None else min(limit, _GREETING_SECONDS))
        message = self._next_message(method)
        self._socket.settimeout(limit)
        parameters = message.get("parameters")
        version = parameters.get("version") if isinstance(parameters, dict) else None
        self.daemon_version = version if isinstance(version, str) else None

    def _next_message(self, method: str) -> dict[str, Any]:
        seen = 0
        while (end := self._buffer.find(b"\0", seen)) < 0:
            seen = len(self._buffer)
            self._buffer += self._receive(method)
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise _not_the_daemon(self.path) from error
        if not isinstance(message, dict):
            raise _not_the_daemon(self.path)
        return message

    def _receive(self, method: str) -> bytes:
        try:
            # A signal that arrives between Python's last look for one and the system call is not seen before that
            # returns: a call without a time limit would sleep through Ctrl-C until the daemon's next word.
            while self._socket.gettimeout() is None and not select.select([self._socket], [], [], _WAKE_SECONDS)[0]:
                pass
            data = self._socket.recv(_CHUNK)
        except TimeoutError as error:
            raise _silent(method) from error
        except OSError as error:
            raise _lost(method) from error
        if not data:
            raise _lost(method)
        return data


def _dial(path: str, seconds: float) -> socket.socket:
    # Blocking, with the kernel's own time limit: a socket with Python's is non-blocking underneath, and
    # connect() on such a one fails with EAGAIN at once when the backlog is full, instead of waiting.
    dialled = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    try:
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        dialled.connect(path)
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
    except (OSError, ValueError) as error:
        dialled.close()
        raise _undialled(path, error) from error
    return dialled


def _undialled(path: str, error: OSError | ValueError) -> ArcbackupdError:
    if isinstance(error, FileNotFoundError):
        return DaemonUnreachable(
            "daemon-not-running",
            f"The daemon is not running: there is no socket {path}.",
            hint=(
                f"{_START}. If it isn't set up yet: sudo arcbackupd setup. If it listens elsewhere: --socket PATH,"
                " or ARCBACKUPD_SOCKET."
            ),
        )
    if isinstance(error, ConnectionRefusedError):
        return DaemonUnreachable(
            "daemon-not-running", f"The daemon is not running: nobody listens on {path}.", hint=_START
        )
    if isinstance(error, PermissionError):
        return Refused("socket-permission-denied", f"Permission denied on the socket {path}.", hint=_way_in(path))
    if isinstance(error, BlockingIOError):
        return DaemonUnreachable(
            "daemon-not-answering",
            f"The daemon does not answer on {path}.",
            hint="It is too busy, or hangs: systemctl status arcbackupd, then sudo systemctl restart arcbackupd.",
        )
    return _unusable(path, error)


def _unusable(path: str, error: OSError | ValueError) -> ArcbackupdError:
    if isinstance(error, OSError) and error.errno is not None:
        reason = os.strerror(error.errno)
        return DaemonUnreachable("daemon-unreachable", f"The socket {path} can't be opened: {reason}.", hint=_START)
    return UsageError(
        "bad-socket-path",
        f"{path} can't be the path of a socket: {error}.",
        hint="Set --socket or ARCBACKUPD_SOCKET.",
    )


def _way_in(path: str) -> str:
    import grp  # needed on this way only

    try:
        found = os.stat(path)  # noqa: PTH116  (pathlib is not worth its import here)
        group = grp.getgrgid(found.st_gid).gr_name
    except (OSError, KeyError):
        return "Use sudo."
    if found.st_gid == 0 or not found.st_mode & 0o060:
        return "Use sudo: only root may use this socket."
    return f"Use sudo, or join the group: sudo usermod -aG {group} $USER, then log in again."


def _result(method: str, message: dict[str, Any]) -> dict[str, Any]:
    parameters = message.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    if message.get("error") is not None:
        raise _as_error(method, str(message["error"]), parameters)
    return parameters


def _as_error(method: str, name: str, parameters: dict[str, Any]) -> ArcbackupdError:
    interface, _, kind_name = name.rpartition(".")
    kind = next((kind for kind in KINDS if kind.__name__ == kind_name), None)
    if interface == INTERFACE and kind is not None:
        code, message = str(parameters.get("code", "unknown")), str(parameters.get("message", name))
        return kind(code, message, hint=str(parameters.get("hint", "")))
    if kind_name in ("MethodNotFound", "MethodNotImplemented", "InterfaceNotFound"):
        return OperationFailed(
            "not-supported",
            f"The daemon does not know the call {method}.",
            hint="Its version differs from this client's: sudo systemctl restart arcbackupd after an upgrade.",
        )
    if kind_name == "InvalidParameter":
        parameter = parameters.get("parameter", "")
        return UsageError("invalid-parameter", f"The daemon does not accept this {parameter} for {method}.")
    return OperationFailed(
        "unknown-error", f"The daemon answered with an error that this client doesn't know: {name}."
    )


def _lost(method: str) -> DaemonUnreachable:
    return DaemonUnreachable(
        "daemon-lost",
        f"The daemon went away during the call {method}.",
        hint="See why: journalctl -u arcbackupd -e. What it was doing is finished or undone when it starts again.",
    )


def _silent(method: str) -> DaemonUnreachable:
    return DaemonUnreachable(
        "daemon-silent",
        f"The daemon did not answer the call {method} in time.",
        hint="It can't start, or is busy: systemctl status arcbackupd, and journalctl -u arcbackupd -e.",
    )


def _not_the_daemon(path: str) -> DaemonUnreachable:
    return DaemonUnreachable(
        "not-the-daemon",
        f"What answers on {path} does not speak the daemon's protocol.",
        hint="Check --socket and ARCBACKUPD_SOCKET.",
    )
