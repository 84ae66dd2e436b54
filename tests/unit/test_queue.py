"""The queue of operations: one at a time, the urgent first, and no listener can hold one up."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from arcbackupd.errors import OperationFailed
from arcbackupd.operations.cancellation import Cancellation, Cancelled
from arcbackupd.operations.events import Event, Notice, Progress, Step, Steps
from arcbackupd.operations.queue import Operation, OperationQueue, Priority

Start = Callable[[Cancellation], Steps[str]]


def run(test: Callable[[OperationQueue], Coroutine[Any, Any, None]]) -> None:
    """Run a test in a loop of its own, in which no callback may fail."""
    failures: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        await asyncio.wait_for(test(OperationQueue()), 30)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert not failures


def steps(*events: Event, outcome: str = "done") -> Start:
    def start(_: Cancellation) -> Steps[str]:
        yield from events
        return outcome

    return start


def held(gate: threading.Event, begun: threading.Event | None = None, outcome: str = "done") -> Start:
    """Work that goes on until the gate opens, and heeds no cancellation."""

    def start(_: Cancellation) -> Steps[str]:
        if begun:
            begun.set()
        yield Step("hold", "Waiting")
        assert gate.wait(20)
        return outcome

    return start


def patient() -> Start:
    """Work that goes on until it is cancelled."""

    def start(cancellation: Cancellation) -> Steps[str]:
        yield Step("wait", "Waiting")
        while True:
            cancellation.wait(20)

    return start


def test_the_outcome_of_the_work_is_the_operation_s_result() -> None:
    async def test(queue: OperationQueue) -> None:
        operation = queue.submit("dump", steps(Step("a", "A"), outcome="good"), Priority.MANUAL, job="dump")
        assert operation.fields == {"operation": "dump", "job": "dump"}
        assert await operation.result == "good"
        assert (operation.state, queue.current) == ("done", None)
        assert operation.started_at is not None

    run(test)


def test_one_operation_runs_at_a_time_and_the_most_urgent_is_next() -> None:
    async def test(queue: OperationQueue) -> None:
        gate = threading.Event()
        order: list[str] = []
        running = 0

        def work(name: str) -> Start:
            def start(_: Cancellation) -> Steps[str]:
                nonlocal running
                running += 1
                assert running == 1
                order.append(name)
                yield Step("x", "X")
                running -= 1
                return name

            return start

        first = queue.submit("x", held(gate), Priority.SCHEDULED)
        later = [
            queue.submit("x", work("scheduled 1"), Priority.SCHEDULED),
            queue.submit("x", work("manual 1"), Priority.MANUAL),
            queue.submit("x", work("boot"), Priority.BOOT),
            queue.submit("x", work("scheduled 2"), Priority.SCHEDULED),
            queue.submit("x", work("manual 2"), Priority.MANUAL),
        ]
        assert (first.state, {operation.state for operation in later}) == ("running", {"queued"})
        assert queue.current is first
        gate.set()
        await asyncio.gather(*(operation.result for operation in later))
        assert order == ["boot", "manual 1", "manual 2", "scheduled 1", "scheduled 2"]

    run(test)


def test_a_failure_of_the_work_is_the_operation_s_and_the_next_one_runs() -> None:
    async def test(queue: OperationQueue) -> None:
        def fail(_: Cancellation) -> Steps[str]:
            yield Step("a", "A")
            raise OperationFailed("why", "It failed.")

        failed = queue.submit("dump", fail, Priority.MANUAL)
        after = queue.submit("dump", steps(), Priority.MANUAL)
        with pytest.raises(OperationFailed, match="It failed"):
            await failed.result
        assert failed.state == "failed"
        assert await after.result == "done"

    run(test)


@pytest.mark.parametrize("error", [ValueError("secret"), SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_what_nobody_foresaw_is_told_as_a_defect_and_ends_nothing_else(error: BaseException) -> None:
    async def test(queue: OperationQueue) -> None:
        def fail(_: Cancellation) -> Steps[str]:
            yield Step("a", "A")
            raise error

        failed = queue.submit("dump", fail, Priority.MANUAL)
        with pytest.raises(OperationFailed) as caught:
            await failed.result
        assert caught.value.code == "internal"
        assert type(error).__name__ in caught.value.message
        assert "secret" not in caught.value.message
        assert await queue.submit("dump", steps(), Priority.MANUAL).result == "done"

    run(test)


def test_what_failed_holds_nothing_any_more_of_what_it_was_at() -> None:
    """Else each dump that fails leaves its blocks until a collection, which looks at numbers and not at sizes."""

    class Block:
        """A megabyte of SQL, say."""

    async def test(queue: OperationQueue) -> None:
        held: list[weakref.ref[Block]] = []

        def write(block: Block) -> None:
            held.append(weakref.ref(block))
            raise OSError(28, "No space left on device")

        def fail(_: Cancellation) -> Steps[str]:
            yield Step("a", "A")
            try:
                write(Block())
            except OSError as error:
                raise OperationFailed("disk-full", "It is full.") from error
            return "done"

        failed = queue.submit("dump", fail, Priority.MANUAL)
        with pytest.raises(OperationFailed):
            await failed.result
        assert await queue.submit("dump", steps(), Priority.MANUAL).result == "done"
        assert [block() for block in held] == [None]

    gc.disable()
    try:
        run(test)
    finally:
        gc.enable()


def test_work_that_cannot_even_begin_fails_and_ends_nothing_else() -> None:
    async def test(queue: OperationQueue) -> None:
        def start(_: Cancellation) -> Steps[str]:
            raise OperationFailed("env-missing", "There is no .env.")

        with pytest.raises(OperationFailed, match=r"no \.env"):
            await queue.submit("dump", start, Priority.MANUAL).result
        assert await queue.submit("dump", steps(), Priority.MANUAL).result == "done"

    run(test)


def test_a_failure_that_nobody_waits_for_is_no_complaint_of_asyncio_s() -> None:
    async def test(queue: OperationQueue) -> None:
        def fail(_: Cancellation) -> Steps[str]:
            raise OperationFailed("why", "It failed.")

        queue.submit("dump", fail, Priority.MANUAL)
        await queue.submit("dump", steps(), Priority.MANUAL).result

    run(test)


async def heard(operation: Operation[str]) -> list[Event]:
    return [event async for event in operation.events()]


def test_every_listener_hears_every_event_in_order_and_then_the_end() -> None:
    async def test(queue: OperationQueue) -> None:
        told: list[Event] = [Step("a", "A"), Notice("N", "H"), Progress(1, "t", 2, 0.5), Step("b", "B")]
        gate = threading.Event()
        queue.submit("dump", held(gate), Priority.MANUAL)
        operation = queue.submit("dump", steps(*told), Priority.MANUAL)
        listeners = [asyncio.create_task(heard(operation)) for _ in range(3)]
        await asyncio.sleep(0)  # they begin to listen
        gate.set()
        assert await asyncio.gather(*listeners) == [told] * 3

    run(test)


def test_whoever_listens_late_hears_all_but_progress_that_is_past() -> None:
    async def test(queue: OperationQueue) -> None:
        past, last = Progress(1, "t", 2, 0.5), Progress(2, "t", 3, 0.75)
        told: list[Event] = [Step("a", "A"), past, Notice("N"), Step("b", "B"), last]
        operation = queue.submit("dump", steps(*told), Priority.MANUAL)
        await operation.result
        assert await heard(operation) == [Step("a", "A"), Notice("N"), Step("b", "B"), last]

    run(test)


def test_a_slow_listener_misses_progress_but_no_step_and_holds_up_nothing() -> None:
    async def test(queue: OperationQueue) -> None:
        many = [Progress(number, None, 0, 0.0) for number in range(5000)]
        operation = queue.submit("dump", steps(Step("a", "A"), *many, Step("b", "B")), Priority.MANUAL)
        slow = operation.events()
        first = asyncio.ensure_future(anext(slow))
        await operation.result
        got = [await first, *[event async for event in slow]]
        assert len(got) <= 260
        assert got[-1] == Step("b", "B")
        assert operation.state == "done"

    run(test)


def test_a_listener_that_leaves_is_forgotten() -> None:
    async def test(queue: OperationQueue) -> None:
        gate = threading.Event()
        operation = queue.submit("dump", held(gate), Priority.MANUAL)
        task = asyncio.create_task(heard(operation))
        await asyncio.sleep(0)  # it begins to listen
        assert operation._listeners
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not operation._listeners
        gate.set()
        assert await operation.result == "done"

    run(test)


# Stopping


def test_stopping_lets_the_running_one_end_and_refuses_the_others() -> None:
    async def test(queue: OperationQueue) -> None:
        gate, begun = threading.Event(), threading.Event()
        running = queue.submit("dump", held(gate, begun), Priority.SCHEDULED)
        waiting = queue.submit("dump", steps(), Priority.BOOT)
        await asyncio.to_thread(begun.wait, 20)
        stopping = asyncio.create_task(queue.stop("the daemon stops", 20))
        await asyncio.sleep(0)
        with pytest.raises(OperationFailed, match="not begun because the daemon stops") as caught:
            await waiting.result
        assert (caught.value.code, stopping.done()) == ("stopping", False)
        gate.set()
        await stopping
        assert (running.state, await running.result) == ("done", "done")
        late = queue.submit("dump", steps(), Priority.BOOT)
        with pytest.raises(OperationFailed):
            await late.result
        assert await heard(late) == []

    run(test)


def test_stopping_abandons_what_does_not_end_in_time() -> None:
    async def test(queue: OperationQueue) -> None:
        running = queue.submit("dump", patient(), Priority.MANUAL)
        await queue.stop("the daemon stops", 0.05)
        with pytest.raises(Cancelled, match="abandoned because the daemon stops") as caught:
            await running.result
        assert (caught.value.code, running.state) == ("cancelled", "failed")

    run(test)


def test_stopping_when_nothing_runs_is_at_once() -> None:
    async def test(queue: OperationQueue) -> None:
        await queue.stop("the daemon stops", 1000)

    run(test)


def test_a_cancelled_waiter_neither_jams_the_queue_nor_hides_that_the_work_goes_on() -> None:
    async def test(queue: OperationQueue) -> None:
        gate, begun = threading.Event(), threading.Event()
        running = queue.submit("dump", held(gate, begun), Priority.MANUAL)
        waiting = queue.submit("dump", steps(), Priority.MANUAL)

        async def wait_for(operation: Operation[str]) -> str:
            return await operation.result

        tasks = [asyncio.create_task(wait_for(operation)) for operation in (running, waiting)]
        await asyncio.to_thread(begun.wait, 20)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stopping = asyncio.create_task(queue.stop("the daemon stops", 20))
        done, _ = await asyncio.wait([stopping], timeout=0.2)
        assert not done
        gate.set()
        await stopping
        assert running.state == "done"

    run(test)


# Cancelling


def test_cancelling_reaches_whatever_the_work_waits_for() -> None:
    cancellation = Cancellation()
    ended = threading.Event()
    with cancellation.interrupting(ended.set):
        threading.Thread(target=cancellation.cancel, args=("of a test",)).start()
        assert ended.wait(20)
    with pytest.raises(Cancelled, match="because of a test"):
        cancellation.check()


def test_the_first_reason_stays() -> None:
    cancellation = Cancellation()
    cancellation.cancel("one")
    cancellation.cancel("two")
    with pytest.raises(Cancelled, match="because one"):
        cancellation.wait(1000)


def test_what_was_cancelled_before_does_not_begin() -> None:
    cancellation = Cancellation()
    cancellation.cancel("x")
    with pytest.raises(Cancelled), cancellation.interrupting(lambda: pytest.fail("it began")):
        pytest.fail("it began")


def test_after_the_work_nothing_is_interrupted_any_more() -> None:
    cancellation = Cancellation()
    with cancellation.interrupting(lambda: pytest.fail("too late")):
        pass
    cancellation.cancel("x")
