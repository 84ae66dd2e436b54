"""The server, over real sockets: what it answers, what it refuses to be made to do."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arcbackupd.control import INTERFACE
from arcbackupd.control.server import Limits
from tests.unit.control_service import HOSTILE, LIST, Failing, Raw, Running, SmallService, eventually, serving

ATTACH = {"method": f"{INTERFACE}.Attach", "more": True}
SERVICE = "org.varlink.service"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A server with the usual limits."""
    with serving(tmp_path / "s") as running:
        yield running


@pytest.fixture
def raw(running: Running) -> Iterator[Raw]:
    """A raw client of it."""
    with Raw(running.path) as raw:
        yield raw


# Speaking Varlink


def test_one_connection_serves_call_after_call(raw: Raw) -> None:
    for _ in range(3):
        reply = raw.ask(LIST)
        assert reply is not None
        assert len(reply["parameters"]["backups"]) == 2


def test_requests_sent_in_one_go_are_answered_in_order(raw: Raw) -> None:
    one = json.dumps({"method": f"{SERVICE}.GetInfo"}).encode() + b"\0"
    raw.send(one + json.dumps(LIST).encode() + b"\0" + one)
    replies = [raw.reply() for _ in range(3)]
    assert ["product" in reply["parameters"] for reply in replies if reply] == [True, False, True]


def test_a_request_may_come_in_pieces(raw: Raw) -> None:
    for byte in json.dumps(LIST).encode() + b"\0":
        raw.send(bytes([byte]))
    assert raw.reply() is not None


def test_a_stream_continues_until_its_last_reply(raw: Raw) -> None:
    raw.send({"method": f"{INTERFACE}.Backup", "more": True})
    replies = [raw.reply() for _ in range(5)]
    assert [reply.get("continues", False) for reply in replies if reply] == [True] * 4 + [False]


def test_who_does_not_ask_for_more_gets_one_reply(raw: Raw) -> None:
    reply = raw.ask({"method": f"{INTERFACE}.Backup"})
    assert reply is not None
    assert reply.keys() == {"parameters"}
    assert reply["parameters"]["result"]["outcome"] == "published"


def test_more_on_a_method_that_does_not_stream_gets_one_reply(raw: Raw) -> None:
    reply = raw.ask(LIST | {"more": True})
    assert reply is not None
    assert "continues" not in reply


def test_a_oneway_call_is_carried_out_and_not_answered(running: Running, raw: Raw) -> None:
    raw.send({"method": f"{INTERFACE}.Jobs", "oneway": True})
    reply = raw.ask(LIST)
    assert reply is not None
    assert "backups" in reply["parameters"]
    assert len(running.service.calls) == 2


def test_a_oneway_call_is_carried_out_though_the_client_has_left(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event())
    with serving(tmp_path / "s", service):
        with Raw(tmp_path / "s") as raw:
            raw.send({"method": f"{INTERFACE}.Attach", "oneway": True})
        eventually(lambda: len(service.calls) == 1)
        assert not service.left.wait(0.2)


def test_a_client_that_shut_down_its_sending_half_is_still_answered(raw: Raw) -> None:
    raw.send(json.dumps(LIST).encode() + b"\0")
    raw.socket.shutdown(socket.SHUT_WR)
    assert raw.reply() is not None
    assert raw.reply() is None


def test_a_client_that_shut_down_its_sending_half_is_waited_for_while_it_is_served(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event())
    with serving(tmp_path / "s", service), Raw(tmp_path / "s") as raw:
        assert raw.ask(ATTACH) is not None
        raw.socket.shutdown(socket.SHUT_WR)
        assert not service.left.wait(0.2)
        assert service.hold
        service.hold.set()
        assert raw.reply() == {"parameters": {"operation": None}}


def test_an_empty_parameters_member_is_none_at_all(raw: Raw) -> None:
    reply = raw.ask(LIST | {"parameters": None, "more": False, "x-from-the-future": 1})
    assert reply is not None
    assert "backups" in reply["parameters"]


@pytest.mark.parametrize(
    ("call", "error", "parameters"),
    [
        ({"method": "com.example.X.Y"}, "InterfaceNotFound", {"interface": "com.example.X"}),
        ({"method": "Y"}, "InterfaceNotFound", {"interface": ""}),
        ({"method": f"{INTERFACE}.Nothing"}, "MethodNotFound", {"method": f"{INTERFACE}.Nothing"}),
        ({"method": f"{SERVICE}.Nothing"}, "MethodNotFound", {"method": f"{SERVICE}.Nothing"}),
        ({"method": f"{SERVICE}.GetInterfaceDescription"}, "InvalidParameter", {"parameter": "interface"}),
        (
            {"method": f"{SERVICE}.GetInterfaceDescription", "parameters": {"interface": "../../errors"}},
            "InterfaceNotFound",
            {"interface": "../../errors"},
        ),
        ({"method": f"{INTERFACE}.Inspect"}, "InvalidParameter", {"parameter": "reference"}),
        (
            {"method": f"{INTERFACE}.Inspect", "parameters": {"reference": 1}},
            "InvalidParameter",
            {"parameter": "reference"},
        ),
        (
            {"method": f"{INTERFACE}.Inspect", "parameters": {"reference": "1", "verify": "yes"}},
            "InvalidParameter",
            {"parameter": "verify"},
        ),
        ({"method": f"{INTERFACE}.List", "parameters": {"extra": 1}}, "InvalidParameter", {"parameter": "extra"}),
        ({"method": f"{INTERFACE}.List", "upgrade": True}, "InvalidParameter", {"parameter": "upgrade"}),
        (
            {"method": "x" * 1000 + ".Y"},
            "InterfaceNotFound",
            {"interface": "x" * 100 + "…"},
        ),
    ],
)
def test_a_call_that_cannot_be_is_answered_with_varlinks_own_error_and_the_next_one_served(
    raw: Raw, call: dict[str, Any], error: str, parameters: dict[str, str]
) -> None:
    assert raw.ask(call) == {"error": f"{SERVICE}.{error}", "parameters": parameters}
    assert raw.ask(LIST) is not None


def test_a_method_that_the_service_lacks_is_not_implemented(running: Running, raw: Raw) -> None:
    running.service.jobs = None  # type: ignore[method-assign, assignment]
    reply = raw.ask({"method": f"{INTERFACE}.Jobs"})
    assert reply is not None
    assert reply["error"] == f"{SERVICE}.MethodNotImplemented"


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_call_is_answered_with_an_error_and_the_connection_ended(
    running: Running, message: bytes
) -> None:
    with Raw(running.path) as raw:
        reply = raw.ask(message + b"\0")
        assert reply is not None
        assert reply["error"] == f"{INTERFACE}.UsageError"
        assert reply["parameters"]["code"] == "malformed-request"
        assert raw.reply() is None
    assert running.service.calls == []
    assert running.log == []


def test_a_request_may_have_64_kib_and_no_byte_more(running: Running) -> None:
    def padded(length: int) -> bytes:
        return json.dumps(LIST).encode().ljust(length) + b"\0"

    with Raw(running.path) as raw:
        reply = raw.ask(padded(64 * 1024))
        assert reply is not None
        assert "backups" in reply["parameters"]
        reply = raw.ask(padded(64 * 1024 + 1))
        assert reply is not None
        assert reply["parameters"]["code"] == "request-too-large"


def test_a_request_without_end_is_dropped_at_its_limit(running: Running) -> None:
    with Raw(running.path) as raw:
        eventually(lambda: not raw.sent(b"x" * 65536))
        assert running.service.calls == []


def test_a_request_has_its_time_from_its_first_byte_on(tmp_path: Path) -> None:
    with serving(tmp_path / "s", limits=Limits(request_seconds=0.2)) as running, Raw(running.path) as raw:
        time.sleep(0.4)  # idle: allowed for as long as it likes
        raw.send(b'{"method"')
        reply = raw.reply()
        assert reply is not None
        assert reply["parameters"]["code"] == "request-too-slow"
        assert raw.reply() is None


# Handlers


def test_an_error_of_ours_reaches_the_client_whole(tmp_path: Path) -> None:
    with serving(tmp_path / "s", Failing()), Raw(tmp_path / "s") as raw:
        raw.send({"method": f"{INTERFACE}.Backup", "more": True})
        assert raw.reply() is not None
        assert raw.reply() == {
            "error": f"{INTERFACE}.OperationFailed",
            "parameters": {"code": "disk-full", "message": "The disk is full.", "hint": "Make room: df"},
        }


@pytest.mark.parametrize(
    "error", [ValueError("secret"), KeyError("secret"), RecursionError("secret"), SystemExit(3)]
)
def test_any_other_error_tells_the_client_nothing_and_the_log_all(
    running: Running, raw: Raw, error: Exception
) -> None:
    running.service.error = error
    reply = raw.ask(LIST)
    assert reply is not None
    assert reply["error"] == f"{INTERFACE}.OperationFailed"
    assert reply["parameters"]["code"] == "internal"
    assert "secret" not in json.dumps(reply)
    assert [logged[2] for logged in running.log] == [error]
    running.service.error = None
    assert raw.ask(LIST) is not None


def test_a_reply_that_json_cannot_hold_is_an_error_of_ours(running: Running, raw: Raw) -> None:
    running.service.rows = [{"size": float("nan")}]
    reply = raw.ask(LIST)
    assert reply is not None
    assert reply["parameters"]["code"] == "internal"


def test_a_handler_whose_own_work_was_cancelled_says_so(running: Running, raw: Raw) -> None:
    running.service.error = asyncio.CancelledError()
    reply = raw.ask(LIST)
    assert reply is not None
    assert reply["parameters"]["code"] == "interrupted"


def test_a_name_that_is_no_utf_8_does_not_make_the_reply_unreadable(running: Running, raw: Raw) -> None:
    running.service.notice = b"caf\xe9".decode("utf-8", "surrogateescape")
    reply = raw.ask(LIST)
    assert reply is not None
    assert reply["parameters"]["notice"] == "caf?"


# Clients that leave, and clients that don't read


def test_a_stream_whose_client_vanishes_ends_at_once_while_it_has_nothing_to_say(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event())
    with serving(tmp_path / "s", service) as running:
        raw = Raw(running.path)
        assert raw.ask(ATTACH) is not None
        raw.close()
        assert service.left.wait(5)
        with Raw(running.path) as other:
            assert other.ask(LIST) is not None
    assert running.log == []


def test_a_stream_whose_client_does_not_read_is_dropped_after_its_time(tmp_path: Path) -> None:
    service = SmallService()
    with serving(tmp_path / "s", service, limits=Limits(write_seconds=0.3)) as running, Raw(running.path) as raw:
        raw.send(ATTACH)
        assert service.left.wait(10)
        with Raw(running.path) as other:
            assert other.ask(LIST) is not None
    assert running.log == []


def test_a_client_that_leaves_the_end_of_a_reply_unread_is_dropped_after_its_time(tmp_path: Path) -> None:
    service = SmallService(notice="x" * (capacity() + 20_000))
    with serving(tmp_path / "s", service, limits=Limits(write_seconds=0.2)) as running, Raw(running.path) as raw:
        raw.send(LIST)
        eventually(lambda: len(service.calls) == 1)
        eventually(lambda: len(running.server._connections) == 0)


def capacity() -> int:
    """Return how many bytes the kernel takes for a client that doesn't read."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        return ours.send(b"x" * 10_000_000)


def test_who_sends_a_thousand_calls_at_once_takes_turns_with_others(running: Running) -> None:
    def others_turn() -> int:
        running.service.calls.clear()
        with Raw(running.path) as greedy, Raw(running.path) as modest:
            assert greedy.ask(LIST) is not None
            assert modest.ask(LIST) is not None
            greedy.send((json.dumps({"method": f"{INTERFACE}.Jobs", "oneway": True}).encode() + b"\0") * 1000)
            assert modest.ask(LIST) is not None
            return len(running.service.calls)

    assert any(others_turn() < 400 for _ in range(10))  # once is enough: this thread may have slept


def test_a_client_that_vanishes_in_the_middle_of_a_request_is_forgotten(running: Running) -> None:
    with Raw(running.path) as raw:
        raw.send(b'{"method":')
        eventually(lambda: len(running.server._connections) == 1)
    eventually(lambda: len(running.server._connections) == 0)
    assert running.log == []


# Limits


def test_when_a_users_places_are_used_up_his_oldest_idle_connection_gives_way(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event())
    with serving(tmp_path / "s", service, limits=Limits(connections_per_user=4)) as running:
        served, first, second, third = (Raw(running.path) for _ in range(4))
        assert served.ask(ATTACH) is not None
        second.send(b'{"half')
        assert third.ask(LIST) is not None
        with Raw(running.path) as newcomer:
            assert newcomer.ask(LIST) is not None
            assert first.reply() is None
        with Raw(running.path) as newcomer, Raw(running.path) as another:
            assert newcomer.ask(LIST) is not None
            assert another.ask(LIST) is not None
            assert second.reply() is None  # half a request keeps no place
        assert service.hold
        service.hold.set()
        assert served.reply() == {"parameters": {"operation": None}}
        for connection in (served, first, second, third):
            connection.close()


def test_when_all_places_are_used_up_the_oldest_idle_connection_gives_way(tmp_path: Path) -> None:
    with serving(tmp_path / "s", limits=Limits(connections=3, connections_per_user=9)) as running:
        oldest, *others = (Raw(running.path) for _ in range(3))
        for connection in (*others, oldest):
            assert connection.ask(LIST) is not None
        with Raw(running.path) as newcomer:
            assert newcomer.ask(LIST) is not None
            assert oldest.reply() is None
            assert all(connection.ask(LIST) is not None for connection in others)
        for connection in (oldest, *others):
            connection.close()


def test_when_every_place_is_being_served_the_oldest_stream_gives_way(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event())
    with serving(tmp_path / "s", service, limits=Limits(connections_per_user=2)) as running:
        first, second = Raw(running.path), Raw(running.path)
        assert first.ask(ATTACH) is not None
        assert second.ask(ATTACH) is not None
        with Raw(running.path) as newcomer:
            assert newcomer.ask(LIST) is not None
        assert first.reply() is None
        first.close()
        second.close()


def test_48_places_a_user_are_enough_for_47_who_stay_and_one_who_asks(running: Running) -> None:
    staying = [Raw(running.path) for _ in range(47)]
    with Raw(running.path) as raw:
        assert raw.ask(LIST) is not None
    for connection in staying:
        assert connection.ask(LIST) is not None
        connection.close()


# Stopping


def test_stopping_lets_a_call_in_progress_finish_and_idle_clients_go(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event())
    with serving(tmp_path / "s", service) as running, Raw(running.path) as idle, Raw(running.path) as busy:
        assert busy.ask(ATTACH) is not None
        stopped = threading.Thread(target=running.run, args=(running.server.stop(30),))
        stopped.start()
        assert idle.reply() is None
        assert not running.path.exists()
        assert service.hold
        service.hold.set()
        assert busy.reply() == {"parameters": {"operation": None}}
        assert busy.reply() is None
        stopped.join()


def test_stopping_waits_no_longer_than_its_deadline(tmp_path: Path) -> None:
    service = SmallService(hold=threading.Event())
    with serving(tmp_path / "s", service) as running, Raw(running.path) as busy:
        assert busy.ask(ATTACH) is not None
        begun = time.monotonic()
        running.run(running.server.stop(0.2))
        assert time.monotonic() - begun < 5
        assert busy.reply() is None
