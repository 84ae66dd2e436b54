"""The daemon: everything is wired here, in the order in which it starts.

See docs/architecture.md, "The rooms".
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from arcbackupd import __version__, notify
from arcbackupd.alarms import JobBegan, JobEnded
from arcbackupd.alarms.alarms import Alarms
from arcbackupd.alarms.alarms import load as load_alarms
from arcbackupd.alarms.memory import AlarmMemory
from arcbackupd.alarms.plugins import FailedAlarm
from arcbackupd.control.access import AccessPolicy
from arcbackupd.control.listening import Listener, inherited, listen
from arcbackupd.control.server import ControlServer
from arcbackupd.control.service import Service
from arcbackupd.destinations.plugins import FailedDestination
from arcbackupd.dumps.catalogue import Catalogue
from arcbackupd.errors import ArcbackupdError, UsageError
from arcbackupd.household import Household, made_meanwhile
from arcbackupd.jobs import JobContext
from arcbackupd.log import configure_logging, failure, get_logger, log_uncaught
from arcbackupd.messages import MessageId
from arcbackupd.monitoring.monitor import Monitor
from arcbackupd.monitoring.parts import Parts
from arcbackupd.operations.backups import Backups
from arcbackupd.operations.before import BootDump
from arcbackupd.operations.boot import BootWatch
from arcbackupd.operations.boot_dump import dump_boot
from arcbackupd.operations.drills import Drills
from arcbackupd.operations.hold import let_go_of_leftover
from arcbackupd.operations.holder import Holder
from arcbackupd.operations.offhost import sheet
from arcbackupd.operations.offhost.offhost import Lasting, OffHost
from arcbackupd.operations.offhost.offhost import load as load_off_host
from arcbackupd.operations.own_starts import OwnStarts
from arcbackupd.operations.queue import OperationQueue
from arcbackupd.operations.restores import RESTORING, Restores
from arcbackupd.operations.state_dir import only_one
from arcbackupd.scheduling import (
    BUILT_IN,
    ClockWatch,
    FailedJob,
    JobHistory,
    JobRunner,
    LoadedJob,
    Scheduler,
    check_jobs,
    load_jobs,
)
from arcbackupd.settings import Settings, configuration_error, load_settings
from arcbackupd.stack import open_engine

_FINISH_SECONDS = 10.0
"""How long a dump at hand may go on after SIGTERM before it is abandoned."""
_LAST_WORDS = timedelta(seconds=2)
"""How long jobs may take to note how they ended."""
_ENDS = "the daemon stops"
_UPLOADS_END_SECONDS = 5.0
_ALARMS_END_SECONDS = 3.0
_STATUS_SECONDS = 30.0
_SCAN_SECONDS = 2.0
_SCAN_NICENESS = 19
_log = get_logger()


def check_config(path: Path) -> tuple[list[FailedJob], list[FailedDestination], list[FailedAlarm]]:
    """Load the configuration as the daemon would. Raise UsageError; return what can't be used all the same."""
    settings = load_settings(path)
    with _naming(path):
        destinations = load_off_host(settings).values()
        jobs = check_jobs(settings.jobs)
        alarms = load_alarms(settings, {*settings.jobs, *BUILT_IN}, socket.gethostname()).values()
    return (
        jobs,
        [item for item in destinations if isinstance(item, FailedDestination)],
        [item for item in alarms if isinstance(item, FailedAlarm)],
    )


def recovery_sheet(path: Path) -> str:
    """The recovery sheet of a configuration. Raise UsageError."""
    settings = load_settings(path)
    with _naming(path):
        loaded = load_off_host(settings)
    locations = {name: item.location for name, item in loaded.items() if not isinstance(item, FailedDestination)}
    return sheet.recovery_sheet(settings, locations, socket.gethostname(), datetime.now(UTC))


def run(path: Path) -> None:
    """Run the daemon in the foreground until SIGTERM or SIGINT. Raise ArcbackupdError when it can't start."""
    settings = load_settings(path)
    configure_logging(settings.log_level)
    log_uncaught()
    with only_one(settings.state_dir):
        _let_go(settings.state_dir)
        asyncio.run(Daemon(path, settings).run())


class Daemon:
    """One process: a queue of operations, a control socket, and the parts made from the configuration."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._host = host_id()
        self._stop = asyncio.Event()
        self._news = asyncio.Event()
        self._changing = asyncio.Lock()
        """Held by whoever replaces or ends the household: reloads come one after another, and before the end."""
        self._clock = ClockWatch(settings.state_dir)
        self._catalogue = Catalogue(settings.state_dir / "catalogue.json")
        self._history = JobHistory(settings.state_dir)
        self._runner = JobRunner(self._history, self._hear)
        self._alarm_memory = AlarmMemory(settings.state_dir)
        self._own_starts = OwnStarts()
        self._asking: asyncio.Task[object] | None = None
        self._queue: OperationQueue
        self._lasting = Lasting(self._look)
        self._server: ControlServer
        self._household: Household
        self._monitor: Monitor

    async def run(self) -> None:
        """Start, say so, serve until told to stop, stop."""
        self._queue = OperationQueue(self._changed)
        self._household = self._make_household(self._settings)
        self._monitor = Monitor(
            self._clock, lambda: self._household.parts, lambda: self._queue.of_kind("dump") is not None
        )
        service = Service(self._queue, self._path, lambda: self._household.parts, self._monitor.gather)
        listener = self._listener()
        if listener.notice:
            _log.warning(listener.notice, hint=listener.hint, message_id=MessageId.SOCKET_RESTRICTED)
        self._server = ControlServer(listener, service, _policy(self._settings), _log_control)
        self._heed_signals()
        self._server.start()
        try:
            async with self._background():
                notify.ready()
                _log.info(f"arcbackupd {__version__} is ready", message_id=MessageId.DAEMON_READY)
                await self._stop.wait()
        finally:
            async with self._changing:
                notify.stopping()
                _log.info("Stopping", message_id=MessageId.DAEMON_STOPPING)
                await self._household.stop()
            # An upload has nothing to lose: what a destination that hangs keeps is left to the process's end.
            uploads = [asyncio.create_task(queue.stop(_ENDS, 0)) for queue in self._lasting.queues.values()]
            await self._queue.stop(_ENDS, _FINISH_SECONDS)
            if uploads:
                await asyncio.wait(uploads, timeout=_UPLOADS_END_SECONDS)
            if boot := self._household.watch.pending:
                await asyncio.wait([boot], timeout=_LAST_WORDS.total_seconds())
            await asyncio.to_thread(self._household.watch.holder.release, "the daemon stops")
            await self._runner.stop(_LAST_WORDS)
            self._household.parts.alarms.close()
            await asyncio.to_thread(self._household.parts.alarms.join, _ALARMS_END_SECONDS)
            await self._server.stop()

    def _hear(self, signal: JobBegan | JobEnded) -> None:
        self._household.parts.alarms.hear(signal)

    def _look(self) -> None:
        """How everything stands may have changed."""
        self._monitor.wake()

    def _changed(self) -> None:
        """An operation began or ended."""
        self._news.set()
        if self._queue.current is None:
            self._look()

    def _make_household(self, settings: Settings) -> Household:
        engine = open_engine(settings.engine)
        backups = Backups(settings, engine, self._queue, self._host, self._clock.doubt, self._catalogue)

        restores = Restores(settings, engine, self._queue, backups, self._own_starts)
        drills = Drills(settings, engine, self._queue, backups, restores)
        with _naming(self._path):
            off_host = OffHost(settings, backups, self._lasting)
        backups.elsewhere = off_host.copies

        def context(name: str) -> JobContext:
            log = _log.bind(job=name)
            return JobContext(backups, restores, off_host, drills, log, settings.state_dir, self._host)

        jobs = _load_jobs(self._path, settings, context, self._host)
        with _naming(self._path):
            alarms = Alarms(settings, [job.name for job in jobs], self._alarm_memory, socket.gethostname())
        scheduler = Scheduler(jobs, submit=self._runner.submit, history=self._history, clock=self._clock)

        holder = Holder(engine, settings.boot, settings.state_dir)
        backups.backend.is_held = lambda: holder.is_holding

        async def boot_dump(boot: BootDump) -> None:
            await dump_boot(backups, boot)
            # Asked now, so that the first `list` after a boot needn't wait for the answer.
            self._asking = asyncio.create_task(asyncio.to_thread(backups.backend.migrations))

        watch = BootWatch(
            engine,
            settings.state_dir / "boot.json",
            settings.boot.min_interval,
            boot_dump,
            holder=holder,
            own_starts=self._own_starts,
            # Its dump would wait for the end of the restore, and it for its dump.
            may_hold=lambda: self._queue.of_kind(*RESTORING) is None,
        )
        return Household(Parts(settings, backups, restores, off_host, drills, scheduler, alarms), watch)

    def _listener(self) -> Listener:
        sockets = notify.inherited_sockets()
        if sockets:
            return inherited(sockets[0])
        return listen(self._settings.control.socket, self._settings.control.group)

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        reloads: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = asyncio.create_task(self._reload())
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)

    async def _reload(self) -> None:
        async with self._changing:
            if not self._stop.is_set():
                await self._read_again()

    async def _read_again(self) -> None:
        """Read the configuration again; a wrong one leaves the old one in force."""
        notify.reloading()
        try:
            wanted = load_settings(self._path)
            # What is under way is noted in the directory that was, and must be found there.
            settings = wanted.model_copy(update={"state_dir": self._settings.state_dir})
            household = await made_meanwhile(lambda: self._make_household(settings), self._stop)
        except ArcbackupdError as error:
            failure(error, message_id=MessageId.CONFIG_REJECTED)
        else:
            if household is None:
                return
            if _needs_restart(self._settings, wanted):
                hint = "Restart it when no dump runs: `systemctl restart arcbackupd`."
                _log.warning("The new socket, its group and state_dir hold from the daemon's next start", hint=hint)
            await self._household.stop()
            self._server.set_policy(_policy(settings))
            household.watch.succeed(self._household.watch)
            household.parts.backups.succeed(self._household.parts.backups)
            household.parts.alarms.succeed(self._household.parts.alarms)
            self._household.parts.alarms.close()
            self._settings, self._household = settings, household
            configure_logging(settings.log_level)
            self._household.start()
            _log.info("The configuration was read again")
            self._changed()
        notify.ready()

    @contextlib.asynccontextmanager
    async def _background(self) -> AsyncIterator[None]:
        """What goes on beside the calls: the household, the watchdog, the status line, scans of foreign dumps."""
        self._household.start()
        ending = threading.Event()
        scans = threading.Thread(target=self._scan, args=(ending,), name="scan", daemon=True)
        scans.start()
        living = (self._watchdog(), self._tell_status(), self._monitor.run())
        tasks = [asyncio.create_task(one) for one in living]
        try:
            yield
        finally:
            ending.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _scan(self, ending: threading.Event) -> None:
        """In a thread of the lowest priority: scan what has no manifest."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _SCAN_NICENESS)
        while not ending.wait(_SCAN_SECONDS):
            # Whatever is wrong with the installation, every operation and `status` say so.
            with contextlib.suppress(ArcbackupdError, OSError):
                while not ending.is_set() and self._household.parts.backups.scan_one():
                    pass

    async def _watchdog(self) -> None:
        interval = notify.watchdog_interval()
        while interval:
            notify.watchdog()
            await asyncio.sleep(interval / 2)

    async def _tell_status(self) -> None:
        while True:
            self._news.clear()
            notify.status(await asyncio.to_thread(self._status_line))
            # Not wait_for: Python 3.11's forgets that it was cancelled when news come at the same moment.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STATUS_SECONDS):
                    await self._news.wait()

    def _status_line(self) -> str:
        if current := self._queue.current:
            return f"Running: {current.kind}"
        try:
            newest = self._household.parts.backups.newest_good()
        except ArcbackupdError as error:
            return error.message
        except OSError as error:
            return f"The backups can't be looked at: {error.strerror}"
        return f"Newest good backup: {newest.name}" if newest else "No good backup yet"


def _let_go(state_dir: Path) -> None:
    try:
        if let_go_of_leftover(state_dir):
            text = "An earlier run of the daemon left the backend standing still; it goes on now"
            _log.warning(text, message_id=MessageId.HOLD_LEFT_OVER)
    except ArcbackupdError as error:
        failure(error, message_id=MessageId.HOLD_STUCK)


def _policy(settings: Settings) -> AccessPolicy:
    return AccessPolicy(settings.control.group, settings.control.admins)


def _needs_restart(old: Settings, new: Settings) -> bool:
    return (old.control.socket, old.control.group, old.state_dir) != (
        new.control.socket,
        new.control.group,
        new.state_dir,
    )


def host_id() -> str:
    """An identity of this host that doesn't tell its machine-id (see machine-id(5)); its name where it has none."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    return hashlib.sha256(f"arcbackupd {machine or socket.gethostname()}".encode()).hexdigest()[:32]


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Within it, wrong settings of jobs are told with the file that they stand in."""
    try:
        yield
    except UsageError as error:
        raise configuration_error(path, error.message) from None


def _load_jobs(
    path: Path, settings: Settings, context: Callable[[str], JobContext], host: str
) -> list[LoadedJob | FailedJob]:
    with _naming(path):
        jobs = load_jobs(settings.jobs, context, host_id=host)
    for job in jobs:
        if isinstance(job, FailedJob):
            _log.error(f"Job {job.name} failed to load: {job.problem}", job=job.name, hint=job.hint)
    return jobs


def _log_control(message: str, *, hint: str = "", error: BaseException | None = None) -> None:
    level = _log.error if error else _log.warning
    level(message, hint=hint, exc_info=error)
