"""Starts that the daemon makes itself: known while they are made, after it, and from a recovery on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from arcbackupd.operations.own_starts import OwnStarts


def test_a_start_in_the_time_of_a_restore_is_ours_also_when_it_is_noticed_later() -> None:
    own = OwnStarts()
    before = datetime.now(UTC)
    with own.expected():
        within = datetime.now(UTC)
        assert own.include(within)
        assert not own.include(before - timedelta(seconds=1))
    assert own.include(within)
    assert not own.include(datetime.now(UTC) + timedelta(seconds=1))


def test_without_a_time_only_the_present_counts() -> None:
    own = OwnStarts()
    assert not own.include(None)
    with own.expected():
        assert own.include(None)
    assert not own.include(None)


def test_a_recovery_counts_from_when_that_which_it_finishes_began() -> None:
    own = OwnStarts()
    began = datetime.now(UTC) - timedelta(hours=1)
    with own.expected(since=began):
        assert own.include(began + timedelta(minutes=1))
    assert own.include(began + timedelta(minutes=1))


def test_one_within_another_ends_neither() -> None:
    own = OwnStarts()
    with own.expected():
        with own.expected():
            pass
        assert own.include(datetime.now(UTC))


def test_only_so_many_are_remembered() -> None:
    own = OwnStarts()
    first = datetime.now(UTC)
    for _ in range(100):
        with own.expected():
            pass
    assert not own.include(first)
