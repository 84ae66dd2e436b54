"""The watch of the backend's boots: none is missed, and none is dumped twice because the configuration was read."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import time_machine

from arcbackupd.operations.boot import BootWatch
from arcbackupd.operations.holder import Holder
from arcbackupd.operations.own_starts import OwnStarts
from arcbackupd.settings import Boot
from arcbackupd.stack import ContainerRun, Engine
from arcbackupd.stack.command import Command


class OneBackend:
    """An engine with one backend, whose event stream tells of nothing."""

    def __init__(self, pids: Path) -> None:
        self.present: ContainerRun | None = ContainerRun("first", "image")
        self.pids = pids

    def backend_run(self) -> ContainerRun | None:
        return self.present

    def watch_backend(self) -> Command:
        return Command(("/bin/sh", "-c", f"echo $$ >> {self.pids}; exec sleep 60"))


def watching(
    tmp_path: Path,
    dump: Callable[[], Awaitable[object]],
    own_starts: OwnStarts | None = None,
    min_interval: timedelta = timedelta(microseconds=1),
) -> tuple[OneBackend, BootWatch]:
    backend = OneBackend(tmp_path / "pids")
    engine = cast("Engine", cast("Any", backend))
    watch = BootWatch(
        engine,
        tmp_path / "boot.json",
        min_interval,
        lambda _: dump(),
        holder=Holder(engine, Boot(), tmp_path),
        own_starts=own_starts or OwnStarts(),
    )
    return backend, watch


def remembered(tmp_path: Path) -> object:
    return json.loads((tmp_path / "boot.json").read_text())["identity"]


def test_a_start_during_the_first_looks_dump_is_found(tmp_path: Path) -> None:
    async def main() -> None:
        second = asyncio.Event()

        async def dump() -> None:
            if engine.present == ContainerRun("second", "image"):
                second.set()
            engine.present = ContainerRun("second", "image")

        engine, watch = watching(tmp_path, dump)
        await watch.look()
        following = asyncio.create_task(watch.run())
        await asyncio.wait_for(second.wait(), 10)
        assert watch.pending
        await watch.pending
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(main())
    assert remembered(tmp_path) == "second"


def test_a_boots_dump_goes_on_and_is_noted_when_its_watch_is_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def dump() -> None:
            begun.set()
            await go_on.wait()

        _, watch = watching(tmp_path, dump)
        looking = asyncio.create_task(watch.look())
        await asyncio.wait_for(begun.wait(), 5)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        go_on.set()
        assert watch.pending
        await asyncio.wait_for(watch.pending, 5)

    asyncio.run(main())
    assert remembered(tmp_path) == "first"


def test_a_watch_that_is_cancelled_as_it_begins_leaves_no_program_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async def dump() -> None:
            """Nothing to do."""

        for delay in (0, 0.001, 0.005, 0.02, 0.1):
            _, watch = watching(tmp_path, dump)
            following = asyncio.create_task(watch.run())
            await asyncio.sleep(delay)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await asyncio.sleep(0.5)

    asyncio.run(main())
    pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
    assert not [pid for pid in pids if _runs(int(pid))]


def test_starts_that_the_daemon_makes_itself_are_remembered_and_not_dumped(tmp_path: Path) -> None:
    async def main() -> None:
        dumped: list[str] = []

        async def dump() -> None:
            dumped.append("a dump")

        own_starts = OwnStarts()
        engine, watch = watching(tmp_path, dump, own_starts)
        await watch.look()
        with own_starts.expected():
            engine.present = ContainerRun("second", "image", "id", datetime.now(UTC))
        await watch.look()  # only after it
        assert (len(dumped), remembered(tmp_path)) == (1, "second")
        engine.present = ContainerRun("third", "image", "id", datetime.now(UTC))
        await watch.look()
        assert len(dumped) == 2

    asyncio.run(main())


def test_an_hour_of_restarts_gives_a_dump_each_ten_minutes_and_one_for_a_new_image(tmp_path: Path) -> None:
    async def main() -> list[datetime]:
        dumps: list[datetime] = []

        async def dump() -> None:
            dumps.append(datetime.now(UTC))

        engine, watch = watching(tmp_path, dump, min_interval=timedelta(minutes=10))
        with time_machine.travel(datetime(2026, 1, 1, tzinfo=UTC), tick=False) as clock:
            for number in range(120):
                clock.shift(30)
                engine.present = ContainerRun(f"run {number}", "old" if number < 117 else "new")
                await watch.look()
        return dumps

    assert len(asyncio.run(main())) == 7


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
