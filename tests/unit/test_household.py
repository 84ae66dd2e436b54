"""How what one configuration made gives way to the next: made beside the daemon's work, unless the daemon stops."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from arcbackupd.errors import OperationFailed
from arcbackupd.household import made_meanwhile


def test_a_stop_does_not_wait_for_what_is_being_made() -> None:
    gate = threading.Event()

    def make() -> Any:
        assert gate.wait(20)

    async def main() -> None:
        stop = asyncio.Event()
        making = asyncio.create_task(made_meanwhile(make, stop))
        await asyncio.sleep(0)
        stop.set()
        assert await making is None
        assert not gate.is_set()
        gate.set()

    asyncio.run(main())


def test_what_it_fails_at_is_raised() -> None:
    def make() -> Any:
        raise OperationFailed("configuration", "It is wrong.")

    with pytest.raises(OperationFailed, match="It is wrong"):
        asyncio.run(made_meanwhile(make, asyncio.Event()))


def test_without_a_thread_for_it_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def make() -> Any:
        raise AssertionError("it was made")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OperationFailed, match="no thread is left") as caught:
        asyncio.run(made_meanwhile(make, asyncio.Event()))
    assert caught.value.code == "no-thread"
    assert caught.value.hint
