"""Notice every start of the backend, also those while nobody watched, and ask for a dump of each."""

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
from arcbackupd.operations.cancellation import INTERRUPTED
from arcbackupd.stack import ContainerRun, Engine
from arcbackupd.stack.process import Command, Stream

_LOOK_SECONDS = 2.0
_RECONNECT_SECONDS = 5.0
_LOOK_ANYWAY_SECONDS = 30.0
"""How long a start can go unnoticed that came just before the engine began to tell us of them."""
_log = get_logger()


class _Seen(BaseModel):
    """The newest run of the backend that is known, and the last dump that one caused."""

    identity: str
    image: str
    dumped_at: AwareDatetime | None = None


class BootWatch:
    """Follows the engine's events, and looks by itself where there are none. Compares runs, not events."""

    def __init__(
        self, engine: Engine, memory: Path, min_interval: timedelta, dump: Callable[[], Awaitable[object]]
    ) -> None:
        """``dump`` takes the dump of a boot; ``memory`` is the file that remembers the last run seen."""
        self._engine = engine
        self._memory = memory
        self._min_interval = min_interval
        self._dump = dump
        self._trouble = ""
        self.pending: asyncio.Task[None] | None = None
        """The boot's dump that was last begun. It goes on, and is noted, when a reload replaces this watch."""

    async def look(self) -> None:
        """Compare the backend's present run with the last one seen; take a dump if it is another one."""
        try:
            present = await asyncio.to_thread(self._engine.backend_run)
        except ArcbackupdError as error:
            self._say_once(error)
            return
        self._trouble = ""
        seen = self._recall()
        if present is None or (seen and seen.identity == present.identity):
            return
        if seen and seen.image == present.image and _recent(seen.dumped_at, self._min_interval):
            _log.info("The backend started again so soon that its last boot's dump stands for this one too")
            self._remember(present, seen.dumped_at)
            return
        _log.info("The backend started", image=present.image)
        self.pending = asyncio.create_task(self._take(present, seen), name="boot dump")
        await asyncio.shield(self.pending)

    async def _take(self, present: ContainerRun, seen: _Seen | None) -> None:
        try:
            await self._dump()
        except ArcbackupdError as error:  # the journal has it already
            if error.code not in INTERRUPTED:
                self._remember(present, seen.dumped_at if seen else None)
        else:
            self._remember(present, datetime.now(UTC))

    async def run(self) -> None:
        """Look whenever the engine says that the backend started, until cancelled."""
        while True:
            command = self._engine.watch_backend()
            if command is None:
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                await self._follow(command)
                await asyncio.sleep(_RECONNECT_SECONDS)
            await self.look()

    async def _follow(self, command: Command) -> None:
        """Look at every line that the engine's event stream writes, until it ends."""
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        try:
            stream = await _opened(command)
        except ArcbackupdError as error:
            self._say_once(error)
            return
        pump = threading.Thread(target=_pump, args=(stream, loop, started, ended), name="events", daemon=True)
        pump.start()
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
    stream: Stream, loop: asyncio.AbstractEventLoop, started: asyncio.Event, ended: asyncio.Future[None]
) -> None:
    """In a thread: a byte from the stream is a start; the end of the stream is the end."""
    with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
        with stream:
            while stream.read(1 << 16, timeout=None):
                loop.call_soon_threadsafe(started.set)
        loop.call_soon_threadsafe(_finish, ended)


def _finish(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
