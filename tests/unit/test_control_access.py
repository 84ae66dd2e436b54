"""Who may do what: decided by who the kernel says is there, in whichever process of the host."""

from __future__ import annotations

import asyncio
import grp
import json
import os
import pwd
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from arcbackupd.control import access
from arcbackupd.control.access import Access, AccessPolicy, Gatekeeper, Peer, peer_of
from arcbackupd.control.interface import METHODS
from arcbackupd.control.listening import inherited, listen
from arcbackupd.errors import Refused
from tests.require import require
from tests.unit.control_service import serving

GROUP = "daemon"
"""A group that every Linux has, with nobody in it."""
NOBODY = pwd.getpwnam("nobody")

ASK = """
import json, os, socket, sys
uid, gid, groups = json.loads(sys.argv.pop(1))
os.setgroups(groups), os.setgid(gid), os.setuid(uid)  # only now: the interpreter may lie where only root goes
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    sys.exit("the kernel says no")
for method in sys.argv[2:]:
    s.sendall(json.dumps({"method": "io.arcsecond.Backups." + method}).encode() + b"\\0")
    data = b""
    while not data.endswith(b"\\0"):
        data += s.recv(65536)
    reply = json.loads(data[:-1])
    print(json.dumps([reply.get("error", "ok").rpartition(".")[2], reply["parameters"]]))
"""


def member(of: str) -> Peer:
    return Peer(uid=4242, gid=4242, pid=1, user="astronomer", groups=frozenset({4242, grp.getgrnam(of).gr_gid}))


def test_the_group_looks_and_takes_backups_and_no_more() -> None:
    policy = AccessPolicy(GROUP, [])
    assert policy.level_of(member(GROUP)) is Access.OPERATE
    allowed = {name for name, method in METHODS.items() if method.access <= Access.OPERATE}
    assert allowed == {
        "List",
        "Inspect",
        "Backup",
        "PlanRetention",
        "Jobs",
        "Status",
        "Attach",
        "TestAlarms",
        "Diagnose",
    }


@pytest.mark.parametrize("admins", [["nobody"], [f"%{GROUP}"], ["no-such-user", "nobody"]])
def test_admins_are_users_and_groups(admins: list[str]) -> None:
    peer = Peer(NOBODY.pw_uid, 4242, 1, "nobody", frozenset({grp.getgrnam(GROUP).gr_gid}))
    assert AccessPolicy(None, admins).level_of(peer) is Access.ADMIN


@pytest.mark.parametrize(
    ("group", "admins"),
    [
        ("no-such-group", []),
        (None, ["no-such-user"]),
        (None, ["%no-such-group"]),
        ("", ["", "%"]),
        ("a\0b", ["a\0b"]),
    ],
)
def test_who_does_not_exist_on_the_host_has_no_rights(group: str | None, admins: list[str]) -> None:
    assert AccessPolicy(group, admins).level_of(member(GROUP)) is Access.NONE


def test_a_uid_that_the_host_does_not_know_has_the_groups_of_its_process_only() -> None:
    peer = Peer(uid=3_999_999, gid=77, pid=1, groups=frozenset({77}))
    assert access.look_up(peer) == peer
    assert str(peer) == "uid 3999999"


def test_the_groups_are_those_of_the_user_database_and_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid, 5000 if name == "nobody" else 6000])
    known = access.look_up(Peer(NOBODY.pw_uid, 77, 1, groups=frozenset({77})))
    assert known.groups == {77, 5000, NOBODY.pw_gid}
    assert known.user == "nobody"


def test_the_kernel_says_who_the_peer_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = peer_of(ours)
    assert (peer.uid, peer.gid, peer.pid) == (os.geteuid(), os.getegid(), os.getpid())


# The gatekeeper


def admitted(gate: Gatekeeper, peer: Peer, needed: Access = Access.READ) -> Peer:
    return asyncio.run(gate.admit(peer, needed, "List"))


@pytest.fixture
def hanging_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A user database that doesn't answer until the event is set."""
    answer = threading.Event()

    def hang(peer: Peer) -> Peer:
        answer.wait(30)
        return peer

    monkeypatch.setattr(access, "look_up", hang)
    yield answer
    answer.set()


def test_root_is_let_in_though_the_user_database_hangs(hanging_database: threading.Event) -> None:
    assert admitted(Gatekeeper(AccessPolicy(None, [])), Peer(0, 0, 1, "root"), Access.ADMIN).user == "root"


def test_the_daemons_own_user_is_let_in_though_the_user_database_hangs(
    hanging_database: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    gate = Gatekeeper(AccessPolicy(None, []), seconds=0.05)
    assert admitted(gate, Peer(4242, 4242, 1), Access.ADMIN).uid == 4242


def test_others_are_refused_in_time_when_the_user_database_hangs(hanging_database: threading.Event) -> None:
    with pytest.raises(Refused, match="did not answer in time") as raised:
        admitted(Gatekeeper(AccessPolicy(GROUP, []), seconds=0.05), member(GROUP))
    assert raised.value.code == "caller-unknown"


def test_a_hanging_user_database_is_asked_by_a_bounded_number_of_threads(hanging_database: threading.Event) -> None:
    async def crowd() -> int:
        gate, before = Gatekeeper(AccessPolicy(GROUP, []), seconds=0.2), threading.active_count()
        peers = [Peer(5000 + number % 100, 1, 1) for number in range(300)]
        calls = [asyncio.ensure_future(gate.admit(peer, Access.READ, "List")) for peer in peers]
        await asyncio.sleep(0.1)
        threads = threading.active_count() - before
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, Refused) for result in results)
        hanging_database.set()
        return threads

    assert asyncio.run(crowd()) <= 16


def test_a_user_database_that_fails_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(peer: Peer) -> Peer:
        raise OSError("broken")

    monkeypatch.setattr(access, "look_up", fail)
    with pytest.raises(Refused):
        admitted(Gatekeeper(AccessPolicy(GROUP, [])), member(GROUP))


def test_a_refusal_says_which_group_to_join() -> None:
    with pytest.raises(Refused) as raised:
        admitted(Gatekeeper(AccessPolicy(GROUP, [])), Peer(NOBODY.pw_uid, NOBODY.pw_gid, 1))
    assert raised.value.message == f"nobody may not call List: that is for the group {GROUP}."
    assert f"usermod -aG {GROUP} nobody" in raised.value.hint


# Over a socket, from processes of other users


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user may enter."""
    if os.geteuid() != 0:
        require("root", "only root can become another user")
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def ask_as(path: Path, uid: int, gid: int, groups: list[int], *methods: str) -> list[Any]:
    """Call as another user; return for each method its error's name, or "ok", and the parameters."""
    command = [sys.executable, "-I", "-c", ASK, json.dumps([uid, gid, groups]), str(path), *methods]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_stranger_does_not_get_past_the_socket_file(directory: Path) -> None:
    with (
        serving(directory / "s", policy=AccessPolicy(GROUP, [])),
        pytest.raises(AssertionError, match="kernel says no"),
    ):
        ask_as(directory / "s", NOBODY.pw_uid, NOBODY.pw_gid, [], "List")


def test_a_stranger_is_refused_though_the_socket_file_lets_everybody_in(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(directory / "s"))
        (directory / "s").chmod(0o666)
        listening.listen()
        with serving(directory / "s", policy=AccessPolicy(GROUP, []), listener=inherited(listening)):
            replies = ask_as(directory / "s", NOBODY.pw_uid, NOBODY.pw_gid, [], *METHODS)
    assert {error for error, _ in replies} == {"Refused"}
    assert {parameters["code"] for _, parameters in replies} == {"not-permitted"}


def test_a_member_by_the_process_group_is_let_in_to_look_and_back_up(directory: Path) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    with serving(directory / "s", policy=AccessPolicy(GROUP, [])):
        replies = ask_as(directory / "s", NOBODY.pw_uid, gid, [], "List", "Backup", "Prune", "RunJob")
    assert [error for error, _ in replies] == ["ok", "ok", "Refused", "Refused"]
    assert "root and the configured admins" in replies[2][1]["message"]


def test_a_member_by_supplementary_groups_is_let_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    monkeypatch.setattr(os, "getgrouplist", lambda name, primary: [primary, gid])
    with serving(directory / "s", policy=AccessPolicy(GROUP, [])):
        replies = ask_as(directory / "s", NOBODY.pw_uid, NOBODY.pw_gid, [gid], "Status", "Prune")
    assert [error for error, _ in replies] == ["ok", "Refused"]


def test_who_has_left_the_group_is_refused_though_his_process_still_has_it(
    directory: Path,
) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    with serving(directory / "s", policy=AccessPolicy(GROUP, [])):
        replies = ask_as(directory / "s", NOBODY.pw_uid, NOBODY.pw_gid, [gid], "List")
    assert [error for error, _ in replies] == ["Refused"]


def test_an_admin_by_name_may_do_everything(directory: Path) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    with serving(directory / "s", policy=AccessPolicy(GROUP, ["nobody"])) as running:
        replies = ask_as(directory / "s", NOBODY.pw_uid, gid, [], "List", "Prune", "PlanRetention")
        assert {call.peer.user for call in running.service.calls} == {"nobody"}
        assert {call.peer.uid for call in running.service.calls} == {NOBODY.pw_uid}
    assert [error for error, _ in replies] == ["ok", "ok", "ok"]


def test_another_policy_holds_from_the_next_call_on(directory: Path) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    with serving(directory / "s", policy=AccessPolicy(GROUP, [])) as running:
        before = ask_as(directory / "s", NOBODY.pw_uid, gid, [], "List", "Prune")
        running.server.set_policy(AccessPolicy(None, ["nobody"]))
        after = ask_as(directory / "s", NOBODY.pw_uid, gid, [], "List", "Prune")
        running.server.set_policy(AccessPolicy(None, []))
        [last] = ask_as(directory / "s", NOBODY.pw_uid, gid, [], "List")
    assert [error for error, _ in before + after] == ["ok", "Refused", "ok", "ok"]
    assert last[0] == "Refused"


def test_a_uid_without_an_entry_is_refused_and_named_by_its_number(directory: Path) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    with serving(directory / "s", policy=AccessPolicy(GROUP, [])):
        [refused] = ask_as(directory / "s", 3_999_999, NOBODY.pw_gid, [gid], "List")
    assert refused[0] == "Refused"
    assert refused[1]["message"].startswith("uid 3999999 may not call List")


def test_a_group_that_does_not_exist_leaves_the_socket_to_root_and_says_so(directory: Path) -> None:
    policy, listener = AccessPolicy("no-such-group", []), listen(directory / "s", "no-such-group")
    with serving(directory / "s", policy=policy, listener=listener):
        assert [error for error, _ in ask_as(directory / "s", 0, 0, [], "List", "Prune")] == ["ok", "ok"]
    assert listener.notice.endswith("the group no-such-group does not exist on this host.")
    assert "groupadd --system no-such-group" in listener.hint
