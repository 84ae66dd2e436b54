"""What an operation told so far, and how it is found while it runs or waits."""

from __future__ import annotations

import asyncio
import threading

from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Event, Notice, Progress, Step, Steps
from arcbackupd.operations.queue import OperationQueue, Priority, new_identity
from tests.unit.test_queue import heard, held, run, steps


def test_an_operation_has_the_id_that_it_is_given_and_others_one_of_their_own() -> None:
    async def test(queue: OperationQueue) -> None:
        identity = new_identity()
        given = queue.submit("restore", steps(), Priority.RESTORE, identity=identity)
        others = [queue.submit("dump", steps(), Priority.MANUAL) for _ in range(3)]
        assert given.id == identity
        assert len({given.id, *(other.id for other in others)}) == 4
        assert "identity" not in given.fields

    run(test)


def test_an_operation_is_found_by_id_and_kind_while_it_runs_or_waits_and_not_after() -> None:
    async def test(queue: OperationQueue) -> None:
        gate = threading.Event()
        running = queue.submit("snapshot", held(gate), Priority.BOOT)
        waiting = queue.submit("restore", steps(), Priority.RESTORE)
        assert (queue.find(running.id), queue.find(waiting.id), queue.find("x")) == (running, waiting, None)
        assert queue.of_kind("restore", "rollback") is waiting
        assert queue.of_kind("rollback", "snapshot") is running
        assert queue.of_kind("dump") is None
        assert queue.of_kind() is None
        gate.set()
        await waiting.result
        assert (queue.find(running.id), queue.find(waiting.id)) == (None, None)
        assert queue.of_kind("snapshot", "restore") is None

    run(test)


def test_the_running_one_is_found_before_one_of_the_same_kind_that_waits() -> None:
    async def test(queue: OperationQueue) -> None:
        gate = threading.Event()
        running = queue.submit("dump", held(gate), Priority.SCHEDULED)
        waiting = queue.submit("dump", steps(), Priority.BOOT)
        assert queue.of_kind("dump") is running
        gate.set()
        await waiting.result

    run(test)


def test_a_restore_goes_before_everything_that_waits() -> None:
    async def test(queue: OperationQueue) -> None:
        gate = threading.Event()
        queue.submit("dump", held(gate), Priority.SCHEDULED)
        boot = queue.submit("dump", steps(), Priority.BOOT)
        restore = queue.submit("restore", held(gate), Priority.RESTORE)
        gate.set()
        await restore.result
        assert boot.started_at is None or (restore.started_at is not None and boot.started_at >= restore.started_at)
        await boot.result

    run(test)


def test_whoever_listens_while_it_works_hears_what_was_told_before_and_what_comes_each_once() -> None:
    async def test(queue: OperationQueue) -> None:
        gate = threading.Event()
        first: list[Event] = [Step("a", "A"), Notice("n"), Step("b", "B"), Progress(7, "t", 1, 0.5)]

        def start(_: Cancellation) -> Steps[str]:
            yield from first
            assert gate.wait(20)
            yield Step("c", "C")
            return "done"

        operation = queue.submit("restore", start, Priority.RESTORE)
        early = operation.events()
        assert [await anext(early) for _ in first] == first
        listener = asyncio.create_task(heard(operation))
        await asyncio.sleep(0)
        gate.set()
        assert await listener == [*first, Step("c", "C")]

    run(test)


def test_a_long_history_is_bounded_to_the_newest_and_ends_all_the_same() -> None:
    async def test(queue: OperationQueue) -> None:
        many = [Step("s", str(number)) for number in range(5000)]
        operation = queue.submit("restore", steps(*many), Priority.RESTORE)
        await operation.result
        got = await asyncio.wait_for(heard(operation), 20)
        assert got == many[-len(got) :]
        assert 100 <= len(got) <= 256

    run(test)
