"""A small service behind the real control server, for the tests of both halves.

In this process: ``with serving(path) as running``. In one of its own, whose memory and descriptors can be
measured: ``python -m tests.unit.control_service PATH [JSON of limits]``, which says "ready".
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arcbackupd.control import INTERFACE
from arcbackupd.control.access import AccessPolicy
from arcbackupd.control.interface import (
    AcceptParameters,
    AlarmParameters,
    AttachParameters,
    BackupParameters,
    Call,
    FetchParameters,
    InspectParameters,
    JobParameters,
    NoParameters,
    OperationParameters,
    Reply,
    RestoreParameters,
    RetentionParameters,
    UploadParameters,
    VerifyParameters,
)
from arcbackupd.control.listening import Listener, listen
from arcbackupd.control.server import ControlServer, Limits
from arcbackupd.errors import Busy, NoSuchBackup, OperationFailed


def backup_row(index: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a row of ``list``, as the contract has it."""
    row: dict[str, Any] = {
        "name": f"backup-20260102-{240000 - index * 10000:06}.sql.gz",
        "index": index,
        "kind": "backup",
        "taken_at": "2026-01-02T12:00:00+00:00",
        "size": 1_234_567,
        "status": "compatible",
        "problem": None,
        "reason": "scheduled",
        "migrations": 42,
        "total_rows": 1_000,
        "only_in_backup": [],
        "only_in_code": [],
        "leftover": [],
        "manifest": True,
        "before_migrations": None,
        "stored": ["local"],
        "anomalies": [],
        "proved_at": None,
        "proved_in_s": None,
    }
    return row | changes


def inspection_row(**changes: Any) -> dict[str, Any]:
    """Return the ``backup`` of ``inspect``."""
    more: dict[str, Any] = {
        "path": "/srv/data/db_backups/backup-20260102-120000.sql.gz",
        "mtime": "2026-01-02T12:00:05+00:00",
        "migrations_list": ["auth.0001_initial", "targets.0001_initial"],
        "rows": {f"public.t{number}": number for number in range(25)},
        "tables": 25,
        "sql_length": 9_999_999,
        "sql_sha256": "ab" * 32,
        "content_sha256": "cd" * 32,
        "server_version": "16.10",
        "pg_dump_version": "16.10",
        "backend_image": "arcsecond/api:1.2",
        "database": "arcsecond_docker",
        "started_at": "2026-01-02T12:00:00+00:00",
        "finished_at": "2026-01-02T12:00:05+00:00",
        "duration_s": 5.25,
        "host": "dome",
        "roles": ["arcsecond_docker"],
        "links": 2,
        "not_surely_before": None,
        "notes": ["The hold held."],
        "drill": None,
    }
    return backup_row() | more | changes


def job_row(**changes: Any) -> dict[str, Any]:
    """Return a row of ``jobs``."""
    row: dict[str, Any] = {
        "name": "dump",
        "schedule": "hourly",
        "state": "active",
        "next_run": "2026-01-02T13:00:00+00:00",
        "last_run": "2026-01-02T12:00:00+00:00",
        "last_outcome": "published",
        "last_error": None,
        "plugin": "arcbackupd",
    }
    return row | changes


def status_reply(**changes: Any) -> dict[str, Any]:
    """Return what ``status`` tells when all is well."""
    reply: dict[str, Any] = {
        "state": "ok",
        "problems": [],
        "jobs": [job_row()],
        "last_good": {"name": backup_row()["name"], "taken_at": "2026-01-02T12:00:00+00:00", "age_s": 1380.0},
        "operation": None,
        "version": "0.1.0",
        "database": {"name": "arcsecond_docker", "server_version": "16.10", "size": 10**9, "reachable": True},
        "retention": {"frozen": None, "held": None},
        "restore": None,
        "replaced": [],
        "destinations": [],
        "limits": {
            "warn_after_s": 7200.0,
            "critical_after_s": 21600.0,
            "upload_warn_after_s": 86400.0,
            "upload_critical_after_s": 259200.0,
        },
        "room": {"free": 10**12, "total": 2 * 10**12, "dump": 1_234_567, "fits": 809_000},
        "alarms": [],
        "drills": {"last": None, "proved": None},
    }
    return reply | changes


def alarm_row(**changes: Any) -> dict[str, Any]:
    """Return an alarm of ``status``."""
    row = {"name": "night", "type": "ping", "told_at": "2026-01-02T12:00:00+00:00", "problem": None, "hint": None}
    return row | changes


def alarm_test(**changes: Any) -> dict[str, Any]:
    """Return how the test of an alarm went: well, unless it is changed."""
    return {"name": "night", "type": "ping", "error": None} | changes


def drill(**changes: Any) -> dict[str, Any]:
    """Return a drill that proved its backup."""
    row: dict[str, Any] = {
        "name": backup_row()["name"],
        "taken_at": "2026-01-02T12:00:00+00:00",
        "content_sha256": "cd" * 32,
        "drilled_at": "2026-01-02T12:30:00+00:00",
        "outcome": "proved",
        "place": "database",
        "duration_s": 34.2,
        "load_s": 31.0,
        "bytes": 9_999_999,
        "problem": None,
        "code": None,
        "hint": None,
    }
    return row | changes


def restore_plan(**changes: Any) -> dict[str, Any]:
    """Return a plan that nothing stands in the way of; without a name it is one of a rollback."""
    plan: dict[str, Any] = {
        "kind": "restore",
        "name": backup_row()["name"],
        "database": "arcsecond_docker",
        "taken_at": "2026-01-02T12:00:00+00:00",
        "in_place": False,
        "status": "older-snapshot",
        "steps": [
            {"name": "load", "text": "Load the backup beside the database", "commands": ["psql -X -v 'A=1'"]},
            {"name": "swap", "text": "Swap the two", "commands": ["psql -c 'ALTER DATABASE a RENAME TO b'"]},
        ],
        "refusals": [],
        "warnings": ["The password in .env was not tried."],
        "migrations": ["targets.0002_more"],
    }
    return plan | changes


def refusal(**changes: Any) -> dict[str, Any]:
    """Return a refusal that ``force`` overrides."""
    found = {"code": "incompatible", "message": "The code lacks a migration.", "hint": "Upgrade.", "forced": True}
    return found | changes


def restore_report(**changes: Any) -> dict[str, Any]:
    """Return how a restore ended that went well."""
    report: dict[str, Any] = {
        "operation": "op-7",
        "kind": "restore",
        "name": backup_row()["name"],
        "database": "arcsecond_docker",
        "outcome": "restored",
        "started_at": "2026-01-02T12:30:00+00:00",
        "finished_at": "2026-01-02T12:31:00+00:00",
        "downtime_s": 8.25,
        "snapshot": "pre-restore-20260102-123100.sql.gz",
        "replaced": "arcsecond_docker_replaced",
        "keep_until": "2026-01-03T12:31:00+00:00",
        "problem": None,
        "code": None,
        "hint": None,
    }
    return report | changes


def replaced_row(**changes: Any) -> dict[str, Any]:
    """Return a replaced database of ``status``."""
    row: dict[str, Any] = {
        "database": "arcsecond_docker_replaced",
        "replaced_at": "2026-01-02T12:31:00+00:00",
        "keep_until": "2026-01-03T12:31:00+00:00",
        "snapshot": "pre-restore-20260102-123100.sql.gz",
        "problem": None,
    }
    return row | changes


EVENTS: list[dict[str, Any]] = [
    {"type": "step", "name": "dump", "text": "Dumping arcsecond_docker"},
    {"type": "progress", "bytes": 1000, "table": "public.t1", "rows": 5, "total_bytes": 2000, "elapsed_s": 0.5},
    {"type": "notice", "text": "The server is newer than pg_dump", "hint": "Upgrade pg_dump"},
    {"type": "step", "name": "publish", "text": "Publishing"},
]
RESULT: dict[str, Any] = {
    "name": "backup-20260102-130000.sql.gz",
    "outcome": "published",
    "size": 1_234_567,
    "sql_length": 9_999_999,
    "duration_s": 5.25,
    "reason": "manual",
    "operation": "op-1",
}


UPLOAD_PLAN = {
    "destination": "nas",
    "location": "file:///mnt/nas",
    "streams": ["dumps", "data"],
    "put": ["dumps/backup-20260102-120000.sql.gz"],
    "remove": ["dumps/backup-20250102-120000.sql.gz"],
    "bytes": 1234,
    "secrets": False,
    "files": 3,
    "file_bytes": 4000,
}


def upload_result(**changed: Any) -> dict[str, Any]:
    """How an upload ended: well, unless it is changed."""
    result = {"destination": "nas", "files": 2, "bytes": 1234, "removed": [], "problems": [], "error": None}
    return {**result, **changed}


def finding_row(**changes: Any) -> dict[str, Any]:
    """What a check found, as the contract has it."""
    row = {"name": "engine", "title": "the engine", "state": "ok", "message": "Docker 27.1.", "hint": ""}
    return {**row, **changes}


RESTORE = {"id": "op-7", "kind": "restore", "state": "running", "started_at": "2026-01-02T12:30:00Z", "event": None}
RESTORE_EVENTS: list[dict[str, Any]] = [
    {"type": "step", "name": "load", "text": "Loading the backup"},
    {"type": "progress", "bytes": 1000, "table": "public.t1", "rows": 5, "total_bytes": 4000, "elapsed_s": 20.0},
]


@dataclass
class SmallService:
    """Answers from its attributes; tests change them. ``calls`` are the calls that came."""

    rows: list[dict[str, Any]] = field(default_factory=lambda: [backup_row(1), backup_row(2)])
    notice: str | None = None
    inspected: dict[str, Any] = field(default_factory=inspection_row)
    verified: dict[str, Any] = field(default_factory=lambda: {"ok": True, "problem": None, "bytes": 9_999_999})
    status_is: dict[str, Any] = field(default_factory=status_reply)
    prunes: int = 0
    removable: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=lambda: dict(RESULT))
    error: BaseException | None = None
    hold: threading.Event | None = None
    """While set to an Event that isn't set, ``attach`` streams without end, and a restore doesn't end."""
    planned: dict[str, Any] = field(default_factory=restore_plan)
    report: dict[str, Any] | None = field(default_factory=restore_report)
    findings: list[dict[str, Any]] = field(default_factory=lambda: [finding_row()])
    uploaded: list[dict[str, Any]] = field(default_factory=lambda: [upload_result()])
    drilled: dict[str, Any] = field(default_factory=drill)
    begun: list[Call[Any]] = field(default_factory=list)
    """The calls that began a restore or a rollback."""
    cancelled: list[str] = field(default_factory=list)
    tested: list[dict[str, Any]] = field(default_factory=lambda: [alarm_test()])
    calls: list[Call[Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when an ``attach`` has been cancelled or lost its client."""

    def _came(self, call: Call[Any]) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    async def list_backups(self, call: Call[NoParameters]) -> Reply:
        self._came(call)
        return {"backups": self.rows, "notice": self.notice, "directory": "/srv/data/db_backups"}

    async def inspect(self, call: Call[InspectParameters]) -> Reply:
        self._came(call)
        if call.parameters.reference == "nothing":
            raise NoSuchBackup("no-such-backup", "There is no backup nothing.", hint="See: arcbackupctl list")
        if call.parameters.verify:
            await call.send({"event": {"type": "progress", "bytes": 10, "elapsed_s": 0.1}})
        return {"backup": self.inspected, "verified": self.verified if call.parameters.verify else None}

    async def backup(self, call: Call[BackupParameters]) -> Reply:
        self._came(call)
        if call.parameters.wait is False:
            return {"result": {"name": None, "outcome": "queued", "operation": "op-1"}}
        for event in EVENTS:
            await call.send({"event": event})
        return {"result": self.result}

    async def verify(self, call: Call[VerifyParameters]) -> Reply:
        self._came(call)
        await call.send({"operation": "op-9"})
        await call.send({"event": {"type": "step", "name": "load", "text": "Loading it"}})
        return {"operation": "op-9", "drill": self.drilled}

    async def prune(self, call: Call[NoParameters]) -> Reply:
        self._came(call)
        self.prunes += 1
        return self._plan(removed=True)

    async def plan_retention(self, call: Call[RetentionParameters]) -> Reply:
        self._came(call)
        goes = {row["name"]: "2026-01-17T12:00:00+00:00" for row in self.rows}
        return self._plan(removed=False) | ({"outlook": goes} if call.parameters.outlook else {})

    def _plan(self, *, removed: bool) -> dict[str, Any]:
        names = [row["name"] for row in self.rows]
        return {
            "verdicts": [self._verdict(name) for name in names],
            "frozen": None,
            "held": None,
            "freed": len(self.removable),
            "removed": self.removable if removed else [],
        }

    def _verdict(self, name: str) -> dict[str, Any]:
        keep = name not in self.removable
        return {
            "name": name,
            "keep": keep,
            "why": "among the newest 3" if keep else "older than 14 days",
            "size": 1,
        }

    async def accept(self, call: Call[AcceptParameters]) -> Reply:
        self._came(call)
        return {"name": call.parameters.name, "accepted": self.inspected["anomalies"]}

    async def jobs(self, call: Call[NoParameters]) -> Reply:
        self._came(call)
        return {"jobs": [job_row(), job_row(name="prune", state="paused", last_run=None, last_outcome=None)]}

    async def run_job(self, call: Call[JobParameters]) -> Reply:
        self._came(call)
        return {"job": job_row(name=call.parameters.name)}

    async def pause_job(self, call: Call[JobParameters]) -> Reply:
        self._came(call)
        return {"job": job_row(name=call.parameters.name, state="paused")}

    async def resume_job(self, call: Call[JobParameters]) -> Reply:
        self._came(call)
        return {"job": job_row(name=call.parameters.name)}

    async def status(self, call: Call[NoParameters]) -> Reply:
        self._came(call)
        return self.status_is

    async def test_alarms(self, call: Call[AlarmParameters]) -> Reply:
        self._came(call)
        return {"results": self.tested}

    async def diagnose(self, call: Call[NoParameters]) -> Reply:
        self._came(call)
        for finding in self.findings:
            step = {"type": "step", "name": finding["name"], "text": f"{finding['title']}: {finding['state']}"}
            await call.send({"event": step, "finding": finding})
        states = {finding["state"] for finding in self.findings}
        state = next((state for state in ("failed", "warning") if state in states), "ok")
        return {"state": state, "findings": self.findings}

    async def plan_upload(self, call: Call[UploadParameters]) -> Reply:
        self._came(call)
        return {"plans": [UPLOAD_PLAN]}

    async def upload(self, call: Call[UploadParameters]) -> Reply:
        self._came(call)
        for event in EVENTS:
            await call.send({"event": event})
        return {"results": self.uploaded}

    async def fetch(self, call: Call[FetchParameters]) -> Reply:
        self._came(call)
        await call.send({"event": EVENTS[0]})
        return {"name": call.parameters.name}

    async def plan_restore(self, call: Call[RestoreParameters]) -> Reply:
        self._came(call)
        return {"plan": self.planned}

    async def restore(self, call: Call[RestoreParameters]) -> Reply:
        self._came(call)
        self.begun.append(call)
        await call.send({"operation": RESTORE["id"]})
        return await self._restoring(call)

    async def _restoring(self, call: Call[Any]) -> Reply:
        for event in RESTORE_EVENTS:
            await call.send({"event": event})
        if self.hold is not None:
            await asyncio.to_thread(self.hold.wait)
        return {"restore": self.report}

    async def plan_rollback(self, call: Call[NoParameters]) -> Reply:
        self._came(call)
        return {"plan": self.planned}

    async def rollback(self, call: Call[NoParameters]) -> Reply:
        """As a restore, but of a daemon that doesn't tell the operation beforehand."""
        self._came(call)
        self.begun.append(call)
        return await self._restoring(call)

    async def discard_replaced(self, call: Call[NoParameters]) -> Reply:
        self._came(call)
        return {"discarded": [row["database"] for row in self.status_is.get("replaced", [])]}

    async def cancel(self, call: Call[OperationParameters]) -> Reply:
        """Let the restore that ``hold`` holds end as one that was undone."""
        self._came(call)
        self.cancelled.append(call.parameters.operation)
        self.report = restore_report(outcome="undone", replaced=None, snapshot=None, downtime_s=None)
        if self.hold is not None:
            self.hold.set()
        return {"operation": RESTORE}

    async def attach(self, call: Call[Any]) -> Reply:
        """Stream for as long as the client stays, or until ``hold`` is set; without ``hold``, fill its pipe.

        With an operation: what ``restore`` streams.
        """
        self._came(call)
        if isinstance(call.parameters, AttachParameters) and call.parameters.operation is not None:
            return {**await self._restoring(call), "operation": RESTORE}
        try:
            if self.hold is None:
                while call.wants_more:
                    await call.send({"event": {"type": "step", "name": "x" * 50_000, "text": ""}})
            await call.send({"event": EVENTS[0]})
            if self.hold is not None:
                await asyncio.to_thread(self.hold.wait)
        except BaseException:
            self.left.set()
            raise
        return {"operation": None}


class Busybody(SmallService):
    """Refuses backups because a restore runs."""

    async def backup(self, call: Call[BackupParameters]) -> Reply:
        raise Busy("busy", "A restore runs since 12:00.", hint="Wait for it: arcbackupctl status")


class Failing(SmallService):
    """Fails after the first event."""

    async def backup(self, call: Call[BackupParameters]) -> Reply:
        await call.send({"event": EVENTS[0]})
        raise OperationFailed("disk-full", "The disk is full.", hint="Make room: df")


@dataclass
class Running:
    """A server that runs in a thread of its own."""

    path: Path
    service: SmallService
    server: ControlServer
    loop: asyncio.AbstractEventLoop
    log: list[tuple[str, str, BaseException | None]]

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the server's loop, from here."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)


EVERYBODY_IS_ROOT = AccessPolicy(group=None)


@contextmanager
def serving(
    path: Path,
    service: SmallService | None = None,
    *,
    policy: AccessPolicy = EVERYBODY_IS_ROOT,
    limits: Limits | None = None,
    listener: Listener | None = None,
) -> Iterator[Running]:
    """Serve at ``path`` in a thread until the end of the block."""
    service = service or SmallService()
    listener = listener or listen(path, policy.group)
    log: list[tuple[str, str, BaseException | None]] = []

    def note(message: str, *, hint: str = "", error: BaseException | None = None) -> None:
        log.append((message, hint, error))

    server = ControlServer(listener, service, policy, note, limits or Limits())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_run_loop, args=(loop, server))
    thread.start()
    running = Running(path, service, server, loop, log)
    try:
        yield running
    finally:
        if service.hold is not None:
            service.hold.set()
        if not server.stopping:
            running.run(server.stop(0.1))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _run_loop(loop: asyncio.AbstractEventLoop, server: ControlServer) -> None:
    loop.call_soon(server.start)
    loop.run_forever()


LIST = {"method": f"{INTERFACE}.List"}


class Raw:
    """A client that sends whatever it is told to."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(path))
        self._buffer = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, message: bytes | dict[str, Any]) -> None:
        self.socket.sendall(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\0")

    def sent(self, message: bytes) -> bool:
        """Return whether the server was still there to send it to."""
        try:
            self.send(message)
        except ConnectionError:
            return False
        return True

    def reply(self) -> dict[str, Any] | None:
        """Return the next reply; None when the server has hung up."""
        while b"\0" not in self._buffer:
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def ask(self, message: bytes | dict[str, Any]) -> dict[str, Any] | None:
        self.send(message)
        return self.reply()


def eventually(what: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something that another process or thread brings about, without an event of its own."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"hello",
    "not UTF-8": b'{"method": "\xff\xfe"}',
    "a list": b"[]",
    "a string": b'"io.arcsecond.Backups.List"',
    "a number": b"1",
    "null": b"null",
    "no method": b"{}",
    "a method that is a number": b'{"method": 1}',
    "a method that is null": b'{"method": null}',
    "parameters that are a list": b'{"method": "io.arcsecond.Backups.List", "parameters": []}',
    "more that is a string": b'{"method": "io.arcsecond.Backups.List", "more": "yes"}',
    "a depth bomb of lists": b"[" * 60_000,
    "a depth bomb of objects": b'{"a":' * 12_000,
    "a depth bomb in the parameters": b'{"method": "x.Y", "parameters": {"a":'
    + b"[" * 30_000
    + b"]" * 30_000
    + b"}}",
    "a key twice": b'{"method": "io.arcsecond.Backups.Status", "method": "io.arcsecond.Backups.Prune"}',
    "NaN": b'{"method": "io.arcsecond.Backups.List", "parameters": {"a": NaN}}',
    "Infinity": b'{"method": "io.arcsecond.Backups.List", "parameters": {"a": -Infinity}}',
    "a float beyond floats": b'{"method": "io.arcsecond.Backups.List", "parameters": {"a": 1e999}}',
    "an integer of 60,000 digits": b'{"method": "io.arcsecond.Backups.List", "parameters": {"a": '
    + b"9" * 60_000
    + b"}}",
    "half a surrogate pair": b'{"method": "io.arcsecond.Backups.Inspect", "parameters": {"reference": "\\ud800"}}',
    "half a surrogate pair in a key": b'{"method": "io.arcsecond.Backups.List", "parameters": {"\\udfff": 1}}',
    "cut short": b'{"method": "io.arcsecond.Backups.Li',
}
"""Messages that are no calls, by what is wrong with them."""


async def main(path: Path, limits: Limits, descriptors: int | None) -> None:
    """Serve until SIGTERM, and stop as the daemon does."""
    rows = [backup_row(number) for number in range(1, 21)]
    listener = listen(path, None)

    def say(message: str, *, hint: str = "", error: BaseException | None = None) -> None:
        print(message, repr(error) if error else "", file=sys.stderr, flush=True)

    server = ControlServer(listener, SmallService(rows), EVERYBODY_IS_ROOT, say, limits)
    if descriptors is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    server.start()
    print("ready", flush=True)
    await done.wait()
    await server.stop(1.0)
    print("stopped", flush=True)


if __name__ == "__main__":
    given: dict[str, Any] = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    asyncio.run(main(Path(sys.argv[1]), Limits(**given.get("limits", {})), given.get("descriptors")))
