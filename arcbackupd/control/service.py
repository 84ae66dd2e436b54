"""What answers the calls on the control socket: the operations, in the shapes that the interface promises."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from arcbackupd import __version__
from arcbackupd.checks.subject import Living
from arcbackupd.control.diagnosing import diagnose
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
from arcbackupd.control.replies import (
    alarm_row,
    backup_details,
    backup_row,
    destination_row,
    drill_reply,
    drills_reply,
    job_row,
    last_good_reply,
    limits_reply,
    list_reply,
    operation_reply,
    plan_reply,
    replaced_row,
    report_reply,
    retention_reply,
    room_reply,
    tested_row,
    upload_result,
)
from arcbackupd.dumps.catalogue import Backup
from arcbackupd.dumps.manifest import Reason
from arcbackupd.errors import ArcbackupdError, NoSuchBackup, OperationFailed, Refused, UsageError
from arcbackupd.jobs import JobStatus
from arcbackupd.monitoring.parts import Parts
from arcbackupd.monitoring.snapshot import Snapshot
from arcbackupd.operations.backups import Backups, Listed
from arcbackupd.operations.events import as_dict
from arcbackupd.operations.queue import Operation, OperationQueue
from arcbackupd.operations.restore.checks import Request
from arcbackupd.operations.restore.report import Report
from arcbackupd.operations.restores import RESTORING, refuse_beside
from arcbackupd.operations.verify import Verified


class Service:
    """The handlers of the interface's methods."""

    def __init__(
        self, queue: OperationQueue, config: Path, parts: Callable[[], Parts], gather: Callable[[Parts], Snapshot]
    ) -> None:
        """``config`` is the file of the configuration, ``parts`` gives those of the one in force.

        ``gather`` looks how they stand.
        """
        self._queue = queue
        self._config = config
        self._parts = parts
        self._gather = gather

    async def list_backups(self, _call: Call[NoParameters]) -> Reply:
        """All backups with their badges, and a paragraph about the newest when it isn't compatible."""
        backups = self._parts().backups
        return await asyncio.to_thread(list_reply, backups)

    async def inspect(self, call: Call[InspectParameters]) -> Reply:
        """One backup in full; with ``verify`` it is read whole."""
        parts = self._parts()
        backups = parts.backups
        listed = await asyncio.to_thread(backups.find, call.parameters.reference)
        if not listed.here:
            return await self._inspect_there(parts, listed, verify=bool(call.parameters.verify))
        verified = await _verify(backups, listed.backup, call) if call.parameters.verify else None
        directory = await asyncio.to_thread(backups.directory)
        path = str(directory / listed.backup.name)
        full = {
            **backup_row(listed),
            **backup_details(listed),
            "path": path,
            "drill": drill_reply(listed.drill),
        }
        return {"backup": full, "verified": verified}

    async def _inspect_there(self, parts: Parts, listed: Listed, *, verify: bool) -> Reply:
        """One that is only off this host: its manifest is read from there."""
        name = listed.backup.name
        if verify:
            hint = f"`arcbackupctl fetch {name}` brings it here and verifies it whole."
            raise Refused("only-off-host", f"{name} is not on this host.", hint=hint)
        if listed.backup.manifest is None:
            copies = await asyncio.to_thread(parts.off_host.copies)
            if learning := parts.off_host.learn(name, copies):
                await asyncio.shield(learning.result)
                listed = await asyncio.to_thread(parts.backups.find, name)
        full = {**backup_row(listed), **backup_details(listed), "path": None, "drill": None}
        return {"backup": full, "verified": None}

    async def backup(self, call: Call[BackupParameters]) -> Reply:
        """Take a dump after whatever runs, showing both."""
        if restoring := self._queue.of_kind(*RESTORING):
            refuse_beside(restoring)
        before = self._queue.current
        operation = self._parts().backups.take(Reason.MANUAL)
        if call.parameters.wait is False:
            return {"result": {"name": None, "outcome": "queued", "operation": operation.id}}
        await _follow_after(before, operation, call)
        outcome = await asyncio.shield(operation.result)
        return {"result": {**asdict(outcome), "operation": operation.id}}

    async def verify(self, call: Call[VerifyParameters]) -> Reply:
        """Drill a backup after whatever runs, showing both."""
        before = self._queue.current
        operation = self._parts().drills.verify(call.parameters.reference)
        await call.send({"operation": operation.id})
        await _follow_after(before, operation, call)
        return {"operation": operation.id, "drill": drill_reply(await asyncio.shield(operation.result))}

    async def prune(self, _call: Call[NoParameters]) -> Reply:
        """Remove what retention doesn't keep."""
        outcome = await asyncio.shield(self._parts().backups.prune().result)
        return retention_reply(outcome.plan, outcome.removed, outcome.freed)

    async def plan_retention(self, call: Call[RetentionParameters]) -> Reply:
        """What prune would do."""
        parts = self._parts()
        plan = await asyncio.to_thread(parts.backups.plan_prune)
        reply = retention_reply(plan, (), plan.freed)
        if call.parameters.outlook:
            goes = await asyncio.to_thread(parts.backups.outlook, _dump_period(parts))
            reply["outlook"] = {name: moment.isoformat() for name, moment in goes.items()}
        return reply

    async def accept(self, call: Call[AcceptParameters]) -> Reply:
        """Take what a flagged backup holds for what it should be."""
        return await asyncio.to_thread(_accept, self._parts().backups, call.parameters.name)

    async def jobs(self, _call: Call[NoParameters]) -> Reply:
        """All jobs."""
        return {"jobs": self._jobs()}

    async def run_job(self, call: Call[JobParameters]) -> Reply:
        """Run a job now and wait for its end."""
        run = await self._parts().scheduler.run_now(call.parameters.name)
        if run.status in (JobStatus.FAILED, JobStatus.INTERRUPTED):
            hint = "`journalctl -u arcbackupd` tells more; it runs again by its schedule."
            how = "was interrupted" if run.status is JobStatus.INTERRUPTED else "failed"
            raise OperationFailed("job-failed", f"Job {call.parameters.name} {how}: {run.message}", hint=hint)
        return {"job": self._job(call.parameters.name)}

    async def pause_job(self, call: Call[JobParameters]) -> Reply:
        """Leave a job out until it is resumed."""
        self._parts().scheduler.pause(call.parameters.name)
        return {"job": self._job(call.parameters.name)}

    async def resume_job(self, call: Call[JobParameters]) -> Reply:
        """Schedule a paused job again."""
        self._parts().scheduler.resume(call.parameters.name)
        return {"job": self._job(call.parameters.name)}

    async def status(self, _call: Call[NoParameters]) -> Reply:
        """Whether the data are safe."""
        return await asyncio.to_thread(self._status)

    async def test_alarms(self, call: Call[AlarmParameters]) -> Reply:
        """Let one alarm, or all, tell that this is a test."""
        tested = await self._parts().alarms.test(call.parameters.name)
        return {"results": [tested_row(one) for one in tested]}

    async def diagnose(self, call: Call[NoParameters]) -> Reply:
        """Go through all checks, from where the daemon stands."""
        parts = self._parts()
        snapshot = await asyncio.to_thread(self._gather, parts)
        living = Living(
            started_at=snapshot.facts.started_at,
            running=lambda: current.kind if (current := self._queue.current) else None,
            newest_good=lambda: snapshot.last_good,
            clock_doubt=lambda: snapshot.facts.clock_doubt,
            warn_after=snapshot.thresholds.warn_after,
        )
        return await diagnose(self._config, parts.settings, parts.off_host, living, call)

    async def attach(self, call: Call[AttachParameters]) -> Reply:
        """Follow the operation that runs, if one does."""
        asked = call.parameters.operation
        operation = self._queue.find(asked) if asked else self._queue.current
        if operation is None:
            return {"operation": None, "restore": report_reply(self._parts().restores.last(), asked)}
        await _follow(operation, call)
        restored = self._parts().restores.last() if operation.kind in RESTORING else None
        return {"operation": operation_reply(operation), "restore": report_reply(restored, operation.id)}

    async def plan_upload(self, call: Call[UploadParameters]) -> Reply:
        """What an upload would do."""
        off_host = self._parts().off_host
        places = off_host.find(call.parameters.destination)
        operations = [off_host.plan(place) for place in places]
        plans = await asyncio.gather(*(asyncio.shield(operation.result) for operation in operations))
        return {"plans": [asdict(plan) for plan in plans]}

    async def upload(self, call: Call[UploadParameters]) -> Reply:
        """Upload to all at the same time; their events come one destination after another."""
        off_host = self._parts().off_host
        operations = {place.name: off_host.upload(place) for place in off_host.find(call.parameters.destination)}
        results = []
        for name, operation in operations.items():
            await _follow(operation, call)
            await asyncio.wait([operation.result])
            results.append(upload_result(name, operation))
        return {"results": results}

    async def fetch(self, call: Call[FetchParameters]) -> Reply:
        """Bring a backup back that is only off this host."""
        listed = await asyncio.to_thread(self._parts().backups.find, call.parameters.name)
        if listed.here:
            raise Refused("not-needed", f"{listed.backup.name} is on this host.", hint="There is nothing to fetch.")
        return {"name": await self._fetch(listed, call.parameters.identity, call)}

    async def _fetch(self, listed: Listed, identity: str | None, call: Call[Any]) -> str:
        """Fetch a dump, after what runs at the destination, showing both."""
        off_host = self._parts().off_host
        copies = await asyncio.to_thread(off_host.copies)
        operation = off_host.fetch(listed.backup.name, copies, identity)
        await call.send({"operation": operation.id})
        await _follow_after(off_host.running(operation), operation, call)
        return await asyncio.shield(operation.result)

    async def plan_restore(self, call: Call[RestoreParameters]) -> Reply:
        """What a restore would do."""
        restores, wanted = self._parts().restores, call.parameters
        return {"plan": plan_reply(await asyncio.to_thread(restores.plan, wanted.name, _request(wanted)))}

    async def restore(self, call: Call[RestoreParameters]) -> Reply:
        """Restore a backup after whatever dump runs, showing both; one that is only elsewhere is fetched first."""
        listed = await asyncio.to_thread(self._parts().backups.find, call.parameters.name)
        if not listed.here and listed.backup.name == call.parameters.name:
            await self._fetch(listed, None, call)
        before = self._queue.current
        return await self._restored(
            self._parts().restores.restore(call.parameters.name, _request(call.parameters)), before, call
        )

    async def plan_rollback(self, _call: Call[NoParameters]) -> Reply:
        """What a rollback would do."""
        return {"plan": plan_reply(await asyncio.to_thread(self._parts().restores.plan_rollback))}

    async def rollback(self, call: Call[NoParameters]) -> Reply:
        """Bring back what the last restore replaced."""
        before = self._queue.current
        return await self._restored(self._parts().restores.rollback(), before, call)

    async def discard_replaced(self, _call: Call[NoParameters]) -> Reply:
        """Drop what restores replaced."""
        if restoring := self._queue.of_kind(*RESTORING):
            refuse_beside(restoring)
        return {"discarded": await asyncio.shield(self._parts().restores.discard().result)}

    async def cancel(self, call: Call[OperationParameters]) -> Reply:
        """Tell an operation to stop, unless it has come too far for that."""
        wanted = call.parameters.operation
        operation = self._queue.find(wanted) or self._parts().off_host.find_operation(wanted)
        if operation is None:
            hint = "`arcbackupctl status` shows what runs."
            raise UsageError(
                "no-such-operation", f"No operation {call.parameters.operation} runs or waits.", hint=hint
            )
        operation.cancellation.ask(f"{call.peer} asked for it")
        return {"operation": operation_reply(operation)}

    async def _restored(
        self, operation: Operation[Report], before: Operation[Any] | None, call: Call[Any]
    ) -> Reply:
        """How a restore ended, and a rollback: with the safety backup of what was replaced, if one is taken."""
        await call.send({"operation": operation.id})
        await _follow_after(before, operation, call)
        report = await asyncio.shield(operation.result)
        snapshot = self._queue.of_kind("snapshot") if report.kind == "restore" else None
        if snapshot:
            await _follow(snapshot, call)
            with contextlib.suppress(ArcbackupdError):  # the stream and `status` tell
                report = report.model_copy(update={"snapshot": await asyncio.shield(snapshot.result)})
        return {"operation": operation.id, "restore": report.model_dump(mode="json")}

    def _jobs(self) -> list[dict[str, Any]]:
        return [job_row(state) for state in self._parts().scheduler.states()]

    def _job(self, name: str) -> dict[str, Any]:
        return next(job for job in self._jobs() if job["name"] == name)

    def _status(self) -> Reply:
        parts = self._parts()
        found = self._gather(parts)
        current = self._queue.current
        return {
            "state": str(found.state),
            "problems": [asdict(problem) for problem in found.problems],
            "jobs": self._jobs(),
            "last_good": found.last_good and last_good_reply(found.last_good, found.facts.now),
            "operation": current and operation_reply(current),
            "version": __version__,
            "retention": {"frozen": found.facts.frozen, "held": found.held},
            "restore": report_reply(parts.restores.last(), None),
            "replaced": [replaced_row(kept) for kept in parts.restores.replaced()],
            "destinations": [destination_row(state) for state in found.destinations],
            "limits": limits_reply(found.thresholds),
            "room": found.facts.room and room_reply(found.facts.room),
            "alarms": [alarm_row(state) for state in found.alarms],
            "drills": drills_reply(parts.backups.drills),
        }


def _dump_period(parts: Parts) -> timedelta:
    return parts.scheduler.period("dump") or timedelta(hours=1)


async def _verify(backups: Backups, backup: Backup, call: Call[InspectParameters]) -> dict[str, Any]:
    """Read it in a thread, telling its events as they come."""
    steps = backups.verify(backup)

    def advance() -> Verified | dict[str, object]:
        try:
            return as_dict(next(steps))
        except StopIteration as stop:
            verified: Verified = stop.value
            return verified

    while not isinstance(told := await asyncio.to_thread(advance), Verified):
        await call.send({"event": told})
    return {"ok": told.problem is None, "problem": told.problem, "bytes": told.bytes}


async def _follow_after(before: Operation[Any] | None, operation: Operation[Any], call: Call[Any]) -> None:
    """Follow an operation, and before it the one that it waits for."""
    if before is not None:
        waiting = f"Waiting for a {before.kind} that runs"
        await call.send({"event": {"type": "step", "name": "queue", "text": waiting}})
        await _follow(before, call)
    await _follow(operation, call)


async def _follow(operation: Operation[Any], call: Call[Any]) -> None:
    if not call.wants_more:
        await asyncio.wait([operation.result])
        return
    async for event in operation.events():
        await call.send({"event": as_dict(event)})


def _request(parameters: RestoreParameters) -> Request:
    return Request(
        in_place=bool(parameters.in_place),
        safety_backup=parameters.safety_backup is not False,
        create_missing_roles=bool(parameters.create_missing_roles),
        force=bool(parameters.force),
    )


def _accept(backups: Backups, name: str) -> Reply:
    """Accept the backup of that very name: what is looked at must not be another one by now."""
    listed = backups.find(name)
    if listed.backup.name != name:
        raise NoSuchBackup("no-such-backup", f"There is no backup named {name}.", hint="`arcbackupctl list`.")
    backups.anomalies.accept(listed.backup, listed.judgement)
    return {"name": name, "accepted": list(listed.judgement.anomalies)}
