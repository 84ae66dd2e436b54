"""How bytes move: the caller is told, the limit is kept, and who stops it is obeyed."""

from __future__ import annotations

import threading
import time
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcbackupd.destinations import PARTIAL, DestinationError, Transfer
from arcbackupd.destinations.transfers import BLOCK, Meter, Stopped, deliver, parts, watched, write


class EnoughError(Exception):
    """What a caller raises."""


def test_what_the_work_returns_or_raises_is_what_the_caller_gets() -> None:
    assert watched(Transfer(), lambda _: 5) == 5
    with pytest.raises(ZeroDivisionError):
        watched(Transfer(), lambda _: 1 / 0)


def test_the_counts_add_up_to_what_moved() -> None:
    def work(meter: Meter) -> None:
        for _ in range(100):
            meter.moved(7)

    counts: list[int] = []
    watched(Transfer(counts.append), work)
    assert sum(counts) == 700


def test_the_caller_is_told_while_nothing_moves() -> None:
    told = threading.Event()

    def work(_: Meter) -> bool:
        return told.wait(30)

    assert watched(Transfer(lambda _: told.set()), work)


def test_what_the_caller_raises_ends_the_work() -> None:
    ended = threading.Event()

    def work(meter: Meter) -> None:
        try:
            while True:
                meter.moved(1)
        finally:
            ended.set()

    def enough(_: int) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        watched(Transfer(enough, limit=1000), work)
    assert ended.is_set()


def test_what_was_done_when_the_caller_had_enough_is_undone() -> None:
    undone: list[bool] = []

    def enough(_: int) -> None:
        raise EnoughError

    def undo() -> None:
        undone.append(True)
        raise DestinationError("destination-unreachable", "It can't.")

    with pytest.raises(EnoughError):
        watched(Transfer(enough), lambda _: None, undo)
    assert undone == [True]


def test_what_failed_is_not_undone() -> None:
    undone: list[bool] = []
    with pytest.raises(ZeroDivisionError):
        watched(Transfer(), lambda _: 1 / 0, lambda: undone.append(True))
    assert undone == []


def test_a_limit_is_kept_to_and_moves_steadily() -> None:
    meter = Meter(limit=1 << 20)
    started = time.monotonic()
    for _ in range(2):
        meter.moved(meter.block)
    assert meter.block == 1 << 18
    assert 0.45 < time.monotonic() - started < 5


def test_a_stopped_one_does_not_wait_any_longer() -> None:
    meter = Meter(limit=1)
    meter.stop()
    with pytest.raises(Stopped):
        meter.moved(1_000_000)


@given(st.integers(1, 10**12) | st.none())
def test_a_block_is_never_too_small_or_too_large(limit: int | None) -> None:
    assert 4096 <= Meter(limit).block <= BLOCK


@given(st.text() | st.lists(st.sampled_from(["", ".", "..", PARTIAL, "a", "\0", "\ud800"])).map("/".join))
def test_a_key_never_leads_out(key: str) -> None:
    try:
        found = parts("vault", key)
    except DestinationError:
        found = ()
    assert "/".join(found) in (key, "")
    assert not {"", ".", ".."} & set(found)
    assert found[:1] != (PARTIAL,)


def test_all_of_a_block_is_written_where_a_file_takes_a_part_at_once() -> None:
    class Narrow(BytesIO):
        def write(self, data: object) -> int:
            return super().write(bytes(data)[:3])  # type: ignore[call-overload]

    file = Narrow()
    write(file, b"more than three")
    assert file.getvalue() == b"more than three"


def test_a_full_disk_of_ours_is_not_the_destinations() -> None:
    with (
        open("/dev/full", "wb", buffering=0) as full,
        pytest.raises(DestinationError, match="written here") as raised,
    ):
        deliver("vault", full, b"x")
    assert raised.value.code == "destination-failed"
