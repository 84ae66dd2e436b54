"""Notice every start of the backend, also those while nobody watched, and ask for a dump of each.

docs/architecture.md, "A start of the backend", follows it through the house.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ValidationError

from arcbackupd.errors import ArcbackupdError
from arcbackupd.files import write_atomically
from arcbackupd.log import failure, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.before import BootDump
from arcbackupd.operations.cancellation import INTERRUPTED
from arcbackupd.operations.holder import Holder
from arcbackupd.operations.own_starts import OwnStarts
from arcbackupd.stack import ContainerRun, Engine
from arcbackupd.stack.command import Command
from arcbackupd.stack.events import ENDS, STARTS, ContainerEvent, parse_event
from arcbackupd.stack.process import Stream

_LOOK_SECONDS = 2.0
_RECONNECT_SECONDS = 1.0
_LOOK_ANYWAY_SECONDS = 60.0
"""How long a start can go unnoticed that came just before the engine began to tell us of them."""
_log = get_logger()


class _Seen(BaseModel):
    """The newest run of the backend that is known, and the last dump that one caused."""

    identity: str
    image: str
    dumped_at: AwareDatetime | None = None


class BootWatch:
    """Follows the engine's events, and looks by itself where there are none. Compares runs, not events.

    An event only says when to look, and lets the backend be held at once: whether its start needs a dump, and
    whether the hold was worth anything, is found out while it stands still.
    """

    def __init__(
        self,
        engine: Engine,
        memory: Path,
        min_interval: timedelta,
        dump: Callable[[BootDump], Awaitable[object]],
        *,
        holder: Holder,
        own_starts: OwnStarts,
        may_hold: Callable[[], bool] = lambda: True,
    ) -> None:
        """``dump`` takes the dump of a boot; ``memory`` is the file that remembers the last run seen.

        ``may_hold`` is asked, in any thread, whether a dump could be taken soon enough for a hold.
        """
        self._engine = engine
        self._memory = memory
        self._min_interval = min_interval
        self._dump = dump
        self.holder = holder
        """Holds the backend; whoever ends the watch for good releases it."""
        self._own_starts = own_starts
        self._may_hold = may_hold
        self._trouble = ""
        self._missing = False
        self._boot: BootDump | None = None
        self.looked = asyncio.Event()
        """Set once the present run was compared with the last one seen, and dumped if need be."""
        self.pending: asyncio.Task[None] | None = None
        """The boot's dump that was last begun. It goes on, and is noted, when a reload replaces this watch."""

    def succeed(self, previous: BootWatch) -> None:
        """Take over what is under way under the configuration before."""
        self.pending, self._boot = previous.pending, previous._boot
        self.holder.succeed(previous.holder)

    async def look(self) -> None:
        """Compare the backend's present run with the last one seen; take a dump if it is another one."""
        try:
            await self._look()
        finally:
            self.looked.set()

    async def _look(self) -> None:
        seen = self._recall()
        try:
            present = await asyncio.to_thread(self._engine.backend_run)
            there = present is not None or await asyncio.to_thread(self._engine.backend_exists)
        except ArcbackupdError as error:
            self._say_once(error)
            # A program that somebody was starting in the backend as it was frozen keeps docker from answering.
            if self.holder.is_holding:
                await asyncio.to_thread(self.holder.release, "the engine doesn't tell about it")
                await self._look()  # now it may
            return
        self._trouble = ""
        self._say_if_missing(there or seen is None)
        if present is None:
            return
        if self._needs_dump(present, seen):
            await self._begin(present, seen)
        elif self.holder.hold_of(present.container, present.started_at):  # and not of one that came meanwhile
            self.holder.release("its start needs no dump")

    def _needs_dump(self, present: ContainerRun, seen: _Seen | None) -> bool:
        if seen and seen.identity == present.identity:
            return False
        if self._own_starts.include(present.started_at):
            _log.info("The backend was started by the daemon itself; that needs no dump")
            self._remember(present, seen.dumped_at if seen else None)
            return False
        if seen and seen.image == present.image and _recent(seen.dumped_at, self._min_interval):
            _log.info("The backend started again so soon that its last boot's dump stands for this one too")
            self._remember(present, seen.dumped_at)
            return False
        return True

    async def _begin(self, present: ContainerRun, seen: _Seen | None) -> None:
        if (
            present.started_at and self._may_hold()
        ):  # One that no event told of, after a restart of the engine say, may still be in time
            await asyncio.to_thread(self.holder.seize, present.container, present.started_at, present.pid)
        _log.info("The backend started", image=present.image)
        self._boot = BootDump(present, self.holder)
        self.pending = asyncio.create_task(self._take(self._boot, seen), name="boot dump")
        await asyncio.shield(self.pending)

    async def _take(self, boot: BootDump, seen: _Seen | None) -> None:
        try:
            await self._dump(boot)
        except ArcbackupdError as error:  # the journal has it already
            if error.code not in INTERRUPTED:
                self._remember(boot.run, seen.dumped_at if seen else None)
        else:
            self._remember(boot.run, datetime.now(UTC))

    async def run(self) -> None:
        """Look whenever the engine says that the backend started, until cancelled."""
        while True:
            command = self._engine.watch_backend()
            if command is None:
                await self.look()
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                await self._follow(command)
                await asyncio.sleep(_RECONNECT_SECONDS)
                await self.look()

    async def _follow(self, command: Command) -> None:
        """Hear every event that the engine's stream tells, until it ends."""
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        try:
            stream = await _opened(command)
        except ArcbackupdError as error:
            self._say_once(error)
            return

        def hear(line: bytes) -> None:
            if (event := parse_event(line)) and self._hear(event):
                loop.call_soon_threadsafe(started.set)

        threading.Thread(target=_pump, args=(stream, loop, hear, ended), name="events", daemon=True).start()
        try:
            while not ended.done():
                # First of all too: the backend may have started while the last look took its dump.
                started.clear()
                await self.look()
                waiting = asyncio.ensure_future(started.wait())
                try:
                    await asyncio.wait(
                        [waiting, ended], timeout=_LOOK_ANYWAY_SECONDS, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:  # also when a reload cancels us
                    waiting.cancel()
        finally:
            stream.kill()

    def _hear(self, event: ContainerEvent) -> bool:
        """In the thread of the events: do at once what can't wait; return whether to look."""
        if event.action in STARTS:
            if not self._own_starts.include(event.at) and self._may_hold():
                self.holder.seize(event.container, event.at)
            return True
        if event.action in ENDS:
            if self._boot and self._boot.is_of(event.container, event.at):
                self._boot.backend_stops()
            self.holder.stopping(event.container, event.at)
            return False
        return True

    def _say_if_missing(self, there: bool) -> None:
        """Say it once when the container whose starts were seen has gone, or has another name now."""
        if not there and not self._missing:
            hint = (
                "Correct engine.backend where it was renamed; one of its old name is seen when it is there again."
            )
            text = "The backend's container isn't there any more, so that its starts can't be seen"
            _log.warning(text, hint=hint, message_id=MessageId.BOOT_NOT_SEEN)
        self._missing = not there

    def _say_once(self, error: ArcbackupdError) -> None:
        if error.code != self._trouble:
            self._trouble = error.code
            failure(error)

    def _recall(self) -> _Seen | None:
        try:
            return _Seen.model_validate_json(self._memory.read_bytes())
        except (OSError, ValidationError):  # lost: the present run counts as a new one
            return None

    def _remember(self, present: ContainerRun, dumped_at: datetime | None) -> None:
        seen = _Seen(identity=present.identity, image=present.image, dumped_at=dumped_at)
        try:
            write_atomically(self._memory, seen.model_dump_json().encode())
        except OSError as error:  # at worst the next start of the daemon takes one dump more
            _log.warning(f"{self._memory} can't be written: {error.strerror}")


def _recent(moment: datetime | None, interval: timedelta) -> bool:
    return moment is not None and timedelta() <= datetime.now(UTC) - moment < interval


async def _opened(command: Command) -> Stream:
    """The stream of a program that was started in a thread; nobody who gives up waiting leaves it behind."""
    opening = asyncio.ensure_future(asyncio.to_thread(Stream, command))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_opened)
        raise


def _close_opened(opening: asyncio.Future[Stream]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        with opening.result():
            pass


def _pump(
    stream: Stream, loop: asyncio.AbstractEventLoop, hear: Callable[[bytes], None], ended: asyncio.Future[None]
) -> None:
    """In a thread: hand over whole lines; the end of the stream is the end."""
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        try:
            with stream:
                rest = b""
                while block := stream.read(1 << 16, timeout=None):
                    *lines, rest = (rest + block).split(b"\n")
                    for line in lines:
                        hear(line)
        finally:  # a defect in hearing must not make us deaf
            loop.call_soon_threadsafe(_finish, ended)


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
