"""The dialler: what it says when nobody answers, and how errors come back."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arcbackupd import __version__
from arcbackupd.control import DEFAULT_SOCKET, INTERFACE
from arcbackupd.control.client import Connection, socket_path
from arcbackupd.errors import (
    KINDS,
    ArcbackupdError,
    DaemonUnreachable,
    NoSuchBackup,
    OperationFailed,
    Refused,
    UsageError,
)
from tests.unit.control_service import EVENTS, Failing, SmallService, serving

INFO = {"parameters": {"version": __version__}}


@contextmanager
def answering(path: Path, answer: Callable[[socket.socket], object]) -> Iterator[None]:
    """Listen at ``path`` and treat the first client to ``answer``."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            accepted, _ = listening.accept()
            with accepted:
                received = b""
                while received.count(b"\0") < 2:  # GetInfo, and the call
                    received += accepted.recv(65536)
                answer(accepted)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def said(*messages: object) -> Callable[[socket.socket], None]:
    def answer(accepted: socket.socket) -> None:
        accepted.sendall(b"".join(json.dumps(message).encode() + b"\0" for message in messages))

    return answer


def raised_by(path: Path, method: str = "List", seconds: float = 20) -> ArcbackupdError:
    with pytest.raises(ArcbackupdError) as raised, Connection(str(path)) as daemon:
        daemon.call(method, seconds=seconds)
    return raised.value


def test_a_call_returns_the_parameters_of_the_reply(tmp_path: Path) -> None:
    with serving(tmp_path / "s") as running, Connection(str(tmp_path / "s")) as daemon:
        assert daemon.call("List")["backups"] == running.service.rows
        assert daemon.call("Inspect", {"reference": "1"})["verified"] is None


def test_a_stream_yields_every_reply_and_ends(tmp_path: Path) -> None:
    with serving(tmp_path / "s") as running, Connection(str(tmp_path / "s")) as daemon:
        replies = list(daemon.stream("Backup"))
        assert replies == [*({"event": event} for event in EVENTS), {"result": running.service.result}]
        assert "backups" in daemon.call("List")


@pytest.mark.parametrize("strange", [[1], "x", None])
def test_a_greeting_without_a_version_is_no_error(tmp_path: Path, strange: object) -> None:
    answer = said({"parameters": strange}, {"parameters": {"backups": []}})
    with answering(tmp_path / "s", answer), Connection(str(tmp_path / "s")) as daemon:
        assert daemon.call("List") == {"backups": []}
        assert daemon.daemon_version is None


def test_an_answer_that_nests_without_end_is_not_the_daemons(tmp_path: Path) -> None:
    with answering(tmp_path / "s", lambda accepted: accepted.sendall(b"[" * 200_000 + b"\0")):
        assert raised_by(tmp_path / "s").code == "not-the-daemon"


def test_the_daemons_version_is_known_after_the_first_call_without_another_round_trip(tmp_path: Path) -> None:
    with serving(tmp_path / "s"), Connection(str(tmp_path / "s")) as daemon:
        assert daemon.daemon_version is None
        sent = []
        real = daemon._socket

        class Spy:
            def sendall(self, data: bytes) -> None:
                sent.append(data)
                real.sendall(data)

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

        daemon._socket = Spy()  # type: ignore[assignment]
        daemon.call("List")
        daemon.call("List")
        assert [data.count(b"\0") for data in sent] == [2, 1]
        assert daemon.daemon_version == __version__


@pytest.mark.parametrize("kind", KINDS)
def test_each_error_comes_back_as_what_it_was_raised_as(tmp_path: Path, kind: type[ArcbackupdError]) -> None:
    service = SmallService(error=kind("some-code", "What happened.", hint="What to do."))
    with serving(tmp_path / "s", service):
        error = raised_by(tmp_path / "s")
    assert type(error) is (kind if kind is not DaemonUnreachable else OperationFailed)
    assert error.as_dict() == {"code": "some-code", "message": "What happened.", "hint": "What to do."}


def test_an_error_in_a_stream_is_raised_after_the_replies_before_it(tmp_path: Path) -> None:
    with serving(tmp_path / "s", Failing()), Connection(str(tmp_path / "s")) as daemon:
        stream = daemon.stream("Backup")
        assert next(stream) == {"event": EVENTS[0]}
        with pytest.raises(OperationFailed, match="The disk is full"):
            next(stream)
        with pytest.raises(NoSuchBackup):
            daemon.call("Inspect", {"reference": "nothing"})


def test_a_call_that_the_daemon_does_not_know_hints_at_its_version(tmp_path: Path) -> None:
    with serving(tmp_path / "s"):
        error = raised_by(tmp_path / "s", "Recover")
    assert (type(error), error.code) == (OperationFailed, "not-supported")


def test_a_parameter_that_the_daemon_does_not_take_is_wrong_usage(tmp_path: Path) -> None:
    with serving(tmp_path / "s"):
        assert type(raised_by(tmp_path / "s", "Inspect")) is UsageError


def test_an_error_from_another_world_is_a_failure(tmp_path: Path) -> None:
    with answering(tmp_path / "s", said(INFO, {"error": "com.example.Odd"})):
        assert raised_by(tmp_path / "s").code == "unknown-error"


# When nobody answers


def test_no_socket_means_that_the_daemon_does_not_run(tmp_path: Path) -> None:
    error = raised_by(tmp_path / "s")
    assert type(error) is DaemonUnreachable
    assert "not running" in error.message
    assert "systemctl start arcbackupd" in error.hint


def test_a_socket_that_nobody_listens_on_means_that_the_daemon_does_not_run(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    error = raised_by(tmp_path / "s")
    assert (type(error), error.code) == (DaemonUnreachable, "daemon-not-running")


def test_permission_denied_is_a_refusal_that_names_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "s").touch()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    (tmp_path / "s").chmod(0o600)
    assert raised_by(tmp_path / "s").hint.startswith("Use sudo")
    monkeypatch.setattr(os, "stat", lambda path: os.stat_result((0o140660, 1, 1, 1, 0, 1, 0, 0, 0, 0)))
    error = raised_by(tmp_path / "s")
    assert (type(error), error.code) == (Refused, "socket-permission-denied")
    assert "usermod -aG daemon $USER" in error.hint


def test_a_full_backlog_is_waited_for_and_then_said(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        waiting.connect(str(tmp_path / "s"))
        begun = time.monotonic()
        with pytest.raises(DaemonUnreachable, match="does not answer"):
            Connection(str(tmp_path / "s"), dial_seconds=0.3)
        assert 0.25 < time.monotonic() - begun < 5


def test_a_path_that_no_socket_can_have_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="can't be the path of a socket"):
        Connection("x" * 200)


def test_a_path_through_a_file_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert raised_by(tmp_path / "file" / "s").code == "daemon-unreachable"


@pytest.mark.parametrize("messages", [(), (INFO,), (INFO, {"parameters": {}, "continues": True})])
def test_a_daemon_that_dies_during_a_call_was_lost(tmp_path: Path, messages: tuple[object, ...]) -> None:
    with (
        answering(tmp_path / "s", said(*messages)),
        Connection(str(tmp_path / "s")) as daemon,
        pytest.raises(DaemonUnreachable, match="went away during the call Backup") as raised,
    ):
        list(daemon.stream("Backup"))
    assert raised.value.code == "daemon-lost"


def test_a_daemon_that_does_not_answer_in_time_is_silent(tmp_path: Path) -> None:
    done = threading.Event()
    with answering(tmp_path / "s", lambda _: done.wait(20)):
        assert raised_by(tmp_path / "s", seconds=0.1).code == "daemon-silent"
        done.set()


def test_a_call_without_a_time_limit_does_not_wait_for_ever_for_a_daemon_that_cannot_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcbackupd.control.client._GREETING_SECONDS", 0.1)
    done = threading.Event()
    with answering(tmp_path / "s", lambda _: done.wait(20)), Connection(str(tmp_path / "s")) as daemon:
        with pytest.raises(DaemonUnreachable, match="did not answer the call Backup"):
            list(daemon.stream("Backup"))
        done.set()


@pytest.mark.parametrize("noise", [b"HTTP/1.1 400 Bad Request\r\n\0", b"[]\0", b"\xff\0", b"\0"])
def test_what_does_not_speak_varlink_is_not_the_daemon(tmp_path: Path, noise: bytes) -> None:
    with answering(tmp_path / "s", lambda accepted: accepted.sendall(noise)):
        assert raised_by(tmp_path / "s").code == "not-the-daemon"


# Where to dial


def test_the_option_goes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ARCBACKUPD_SOCKET", "/from/environment")
    assert socket_path("/given") == "/given"
    assert socket_path() == "/from/environment"
    monkeypatch.delenv("ARCBACKUPD_SOCKET")
    assert socket_path() == DEFAULT_SOCKET == "/run/arcbackupd/control.sock"


def test_the_name_of_the_interface_is_the_contracts() -> None:
    assert INTERFACE == "io.arcsecond.Backups"
