"""The talk with systemd: sd_notify(3), the watchdog, and sockets passed to us (sd_listen_fds(3)).

Without NOTIFY_SOCKET every message is a no-op, so the same daemon runs in a terminal. A message that can't
be sent is dropped: systemd's own time limits then decide.
"""

from __future__ import annotations

import os
import socket
import time

from arcbackupd.errors import OperationFailed

_FIRST_FD = 3


def ready() -> None:
    """Say that start-up, or a reload, is complete."""
    _send("READY=1")


def status(text: str) -> None:
    """Set the line that ``systemctl status`` shows."""
    _send("STATUS=" + " ".join(text.split()))


def watchdog() -> None:
    """Say that we are alive; see ``watchdog_interval``."""
    _send("WATCHDOG=1")


def reloading() -> None:
    """Say that a reload begins; ``ready`` ends it. The time is there for newer systemds' notify-reload."""
    _send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """Say that we are on our way out."""
    _send("STOPPING=1")


def watchdog_interval() -> float | None:
    """Return after how many seconds without ``watchdog`` systemd kills us: call it twice as often.

    ``None`` when no watchdog is set, or it is set for another process.
    """
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1_000_000 if microseconds.isdecimal() and int(microseconds) else None


def inherited_sockets() -> list[socket.socket]:
    """Return the listening sockets that systemd passed to this process; empty when it passed none.

    They are closed on exec, and the variables are unset: no child may take them for its own. Raise
    OperationFailed when one of them isn't a listening Unix stream socket.
    """
    given = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if given["LISTEN_PID"] != str(os.getpid()) or not given["LISTEN_FDS"].isdecimal():
        return []
    return [_adopt(fd) for fd in range(_FIRST_FD, _FIRST_FD + int(given["LISTEN_FDS"]))]


def _adopt(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        adopted = socket.socket(fileno=fd)
        if _listens(adopted):
            return adopted
        adopted.close()
    except OSError as error:
        problem = f"can't be used ({error.strerror})"
    else:
        problem = "isn't a listening Unix stream socket"
    raise OperationFailed(
        "bad-socket",
        f"The socket that systemd passed as descriptor {fd} {problem}.",
        hint="Let arcbackupd.socket have nothing but ListenStream= with the path of the control socket.",
    )


def _listens(candidate: socket.socket) -> bool:
    return (
        candidate.family == socket.AF_UNIX
        and candidate.type == socket.SOCK_STREAM
        and candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    )


def _send(*assignments: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.settimeout(1)  # a full queue must not hold up the event loop
            notifier.sendto("\n".join(assignments).encode("utf-8", "replace"), address)
    except OSError:
        return
