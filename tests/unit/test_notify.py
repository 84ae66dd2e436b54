"""The talk with systemd, over real sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from arcbackupd import notify
from arcbackupd.errors import OperationFailed


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """What systemd would listen on, in both kinds of address."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@arcbackupd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if request.param == "abstract" else name)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def test_each_message_is_what_systemd_expects(systemd: socket.socket) -> None:
    notify.ready()
    notify.status("Dumping,\n 12 MB so far")
    notify.watchdog()
    notify.stopping()
    assert [systemd.recv(4096) for _ in range(4)] == [
        b"READY=1",
        b"STATUS=Dumping, 12 MB so far",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_a_reload_says_when_it_began(systemd: socket.socket) -> None:
    before = time.monotonic_ns() // 1000
    notify.reloading()
    first, second = systemd.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "/nonexistent/notify"])
def test_where_nobody_listens_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify.ready()


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [
        ("60000000", None, 60.0),
        ("500000", "ours", 0.5),
        ("60000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdogs_interval(
    monkeypatch: pytest.MonkeyPatch, microseconds: str | None, pid: str | None, interval: float | None
) -> None:
    for name, value in (("WATCHDOG_USEC", microseconds), ("WATCHDOG_PID", pid)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value.replace("ours", str(os.getpid())))
    assert notify.watchdog_interval() == interval


# Sockets come as descriptors from 3 on, which only a process of its own has free.
_CHILD = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from arcbackupd import notify
try:
    found = notify.inherited_sockets()
    print([(s.fileno(), s.getsockname(), s.get_inheritable()) for s in found])
except Exception as error:
    print(type(error).__name__, error)
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""


def child(passed: socket.socket | None, *, off_by: int = 0, count: str = "1") -> list[str]:
    """Return the lines that a process prints which got this socket as descriptor 3."""
    wrapper = 'exec 3<&"$1"; shift; exec "$@"' if passed else 'shift; exec "$@"'
    fd = passed.fileno() if passed else -1
    done = subprocess.run(
        ["bash", "-c", wrapper, "bash", str(fd), sys.executable, "-c", _CHILD, str(off_by)],
        pass_fds=[fd] if passed else [],
        env={**os.environ, "LISTEN_FDS": count, "LISTEN_FDNAMES": "control"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "control.sock"))
        listener.listen()
        yield listener


def test_a_passed_socket_is_adopted_and_no_child_inherits_it(listening: socket.socket) -> None:
    assert child(listening) == [str([(3, listening.getsockname(), False)]), "[]"]


def test_sockets_meant_for_another_process_are_left_alone(listening: socket.socket) -> None:
    assert child(listening, off_by=1) == ["[]", "[]"]


def test_a_socket_that_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        assert child(silent)[0].startswith("OperationFailed The socket that systemd passed as descriptor 3")


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_kind_is_refused(kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        assert "isn't a listening Unix stream socket" in child(other)[0]


def test_a_descriptor_that_is_not_there_is_refused() -> None:
    assert "can't be used (Bad file descriptor)" in child(None)[0]


def test_a_bad_socket_comes_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OperationFailed) as caught:
        notify._adopt(10**6)
    assert caught.value.code == "bad-socket"
    assert "ListenStream=" in caught.value.hint
