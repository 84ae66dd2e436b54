"""The socket file: its owner and mode from birth on, what becomes of an old one, and of ours at the end."""

from __future__ import annotations

import grp
import os
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from arcbackupd.control.listening import inherited, listen
from arcbackupd.errors import OperationFailed, UsageError
from tests.require import require

GROUP = "daemon"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where to listen; its directory isn't there yet."""
    return tmp_path / "run" / "control.sock"


def test_with_a_group_the_socket_is_for_it(path: Path) -> None:
    if os.geteuid() != 0:
        require("root", "only root can give a file to any group")
    with closing(listen(path, GROUP)) as listener:
        assert mode(path) == 0o660
        assert path.stat().st_gid == grp.getgrnam(GROUP).gr_gid
        assert listener.notice == ""


def test_without_a_group_the_socket_is_its_owners(path: Path) -> None:
    with closing(listen(path, None)) as listener:
        assert mode(path) == 0o600
        assert listener.notice == ""


def test_a_group_that_does_not_exist_leaves_the_socket_to_its_owner_and_is_said(path: Path) -> None:
    with closing(listen(path, "no-such-group")) as listener:
        assert mode(path) == 0o600
        assert "the group no-such-group does not exist" in listener.notice


def test_a_group_that_cannot_be_given_leaves_the_socket_to_its_owner_and_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with closing(listen(path, GROUP)) as listener:
        assert mode(path) == 0o600
        assert "can't be given" in listener.notice


def test_owner_and_mode_are_final_before_anybody_can_connect(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    class Watched(socket.socket):
        def listen(self, backlog: int = 0, /) -> None:
            with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
                early.connect(str(path))
            seen.append((mode(path), path.stat().st_gid))
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        with closing(listen(path, grp.getgrgid(os.getegid()).gr_name)):
            assert seen == [(0o660, os.getegid())]
            assert os.umask(0) == 0
    finally:
        os.umask(before)


def test_the_socket_of_a_daemon_that_is_gone_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    with closing(listen(path, None)), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_daemon_that_listens_is_not_replaced(path: Path) -> None:
    with closing(listen(path, None)):
        with pytest.raises(OperationFailed, match="Another daemon listens") as raised:
            listen(path, None)
        assert raised.value.code == "already-running"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_daemon_too_busy_to_accept_is_not_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(OperationFailed, match="Another daemon listens"):
            listen(path, None)


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(UsageError, match="is not a socket"):
        listen(path, None)
    assert path.read_text() == "precious"


def test_a_path_too_long_for_linux_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="107 bytes"):
        listen(tmp_path / ("x" * 100), None)


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="can't be made: File exists"):
        listen(tmp_path / "file" / "s", None)


def test_the_backlog_holds_as_many_as_wait_at_once(path: Path) -> None:
    clients = [socket.socket(socket.AF_UNIX) for _ in range(128)]
    with closing(listen(path, None)):
        for client in clients:
            client.setblocking(False)
            client.connect(str(path))
    for client in clients:
        client.close()


def test_at_the_end_the_file_goes_when_it_is_ours(path: Path) -> None:
    listen(path, None).close()
    assert not path.exists()


def test_at_the_end_the_file_stays_when_somebody_else_has_put_his_there(path: Path) -> None:
    listener = listen(path, None)
    path.rename(path.with_name("kept"))  # or the inode's number would be used again
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        listener.close()
        assert path.exists()


def test_an_inherited_socket_keeps_its_file(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as from_systemd:
        from_systemd.bind(str(path))
        from_systemd.listen()
        inherited(from_systemd).close()
    assert path.exists()


def test_an_inherited_socket_that_does_not_listen_is_refused(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unbound, pytest.raises(UsageError, match="not a listening Unix"):
        inherited(unbound)
    with socket.socket() as tcp, pytest.raises(UsageError, match="not a listening Unix"):
        inherited(tcp)
