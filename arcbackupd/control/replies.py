"""Values as the interface has them: the shapes of replies, and nothing else."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from arcbackupd.alarms.alarms import AlarmState, Tested
from arcbackupd.control.interface import Reply
from arcbackupd.dumps.anomalies import Judgement
from arcbackupd.dumps.catalogue import Backup
from arcbackupd.dumps.compatibility import Badge, explain_newest
from arcbackupd.errors import ArcbackupdError
from arcbackupd.operations.anomalies import explain_flagged
from arcbackupd.operations.backups import Backups, Listed
from arcbackupd.operations.drill.records import DrillRecord, DrillRecords
from arcbackupd.operations.events import as_dict
from arcbackupd.operations.health import Room, Thresholds
from arcbackupd.operations.offhost.offhost import DestinationState
from arcbackupd.operations.offhost.upload import UploadOutcome
from arcbackupd.operations.prune import RetentionPlan
from arcbackupd.operations.queue import Operation
from arcbackupd.operations.restore.replaced import Replaced
from arcbackupd.operations.restore.report import Plan, Report
from arcbackupd.scheduling import JobState


def list_reply(backups: Backups) -> Reply:
    directory = backups.directory()
    listed = backups.list()
    notice = _explain_newest(listed[0], backups) if listed else None
    if not directory.is_dir():
        notice = f"No backups directory found: {directory} is created with the first backup."
    return {"backups": [backup_row(entry) for entry in listed], "notice": notice, "directory": str(directory)}


def _explain_newest(newest: Listed, backups: Backups) -> str | None:
    name, judgement = newest.backup.name, newest.judgement
    notices = [explain_newest(name, newest.compatibility)]
    if judgement.flagged and not backups.anomalies.replaced_since(newest.backup.taken_at):
        notices.append(explain_flagged(name, judgement.anomalies))
    return " ".join(filter(None, notices)) or None


def backup_row(listed: Listed) -> dict[str, Any]:
    backup, compatibility = listed.backup, listed.compatibility
    unknown = compatibility.status in (Badge.UNKNOWN, Badge.BROKEN)
    proved = listed.drill is not None and listed.drill.proved
    return {
        "name": backup.name,
        "index": listed.index,
        "kind": str(backup.kind),
        "taken_at": backup.taken_at.isoformat(),
        "size": backup.size,
        "status": str(compatibility.status),
        "problem": compatibility.annotation if unknown else None,
        "reason": str(backup.reason),
        "migrations": None if backup.migrations is None else len(backup.migrations),
        "total_rows": sum(backup.rows.values()) if backup.manifest or backup.scan else None,
        "only_in_backup": list(compatibility.only_in_backup),
        "only_in_code": list(compatibility.only_in_code),
        "leftover": list(compatibility.leftover),
        "manifest": backup.manifest is not None,
        "before_migrations": backup.before_migrations,
        "stored": list(listed.stored),
        "anomalies": list(listed.judgement.anomalies if listed.judgement.flagged else ()),
        "proved_at": listed.drill.drilled_at.isoformat() if proved and listed.drill else None,
        "proved_in_s": listed.drill.duration_s if proved and listed.drill else None,
    }


def backup_details(listed: Listed) -> dict[str, Any]:
    backup = listed.backup
    manifest, scan = backup.manifest, backup.scan
    known = manifest or scan
    return {
        "mtime": backup.modified_at.isoformat(),
        "migrations_list": list(backup.migrations or ()),
        "rows": backup.rows,
        "tables": len(backup.rows) if known else None,
        "sql_length": manifest.sql_length if manifest else scan and scan.length,
        "sql_sha256": manifest.sql_sha256 if manifest else scan and scan.sha256,
        "content_sha256": backup.content,
        "server_version": known and known.server_version,
        "pg_dump_version": known and known.pg_dump_version,
        "backend_image": manifest and manifest.backend_image,
        "database": manifest and manifest.database,
        "started_at": manifest and manifest.started_at.isoformat(),
        "finished_at": manifest and manifest.finished_at.isoformat(),
        "duration_s": manifest and manifest.duration,
        "host": manifest and manifest.host,
        "roles": list(backup.roles),
        "links": backup.links,
        "not_surely_before": manifest.not_surely_before if manifest and backup.before_migrations is False else None,
        "notes": [*_notes(backup), *_settled(listed.judgement)],
    }


def _notes(backup: Backup) -> list[str]:
    notes = []
    if backup.links > 1:
        notes.append(f"its content is stored once for {backup.links} backups: the database didn't change")
    if backup.manifest and backup.taken_at - backup.manifest.started_at > timedelta(minutes=1):
        notes.append("unchanged since an earlier backup, whose provenance this is")
    if backup.scan and not backup.problem:
        notes.append("without a manifest: what is told was read from its SQL")
    return notes


def _settled(judgement: Judgement) -> list[str]:
    """What a backup lost and may have lost."""
    accepted = judgement.anomalies if judgement.accepted else ()
    return [f"accepted: {text}" for text in accepted] + list(judgement.explained)


def retention_reply(planned: RetentionPlan, removed: tuple[str, ...], freed: int) -> dict[str, Any]:
    sizes = {backup.name: backup.size for backup in planned.backups}
    return {
        "verdicts": [{**asdict(verdict), "size": sizes[verdict.name]} for verdict in planned.plan.verdicts],
        "frozen": planned.plan.frozen,
        "held": planned.plan.held,
        "freed": freed,
        "removed": list(removed),
    }


def plan_reply(plan: Plan) -> dict[str, Any]:
    return {**asdict(plan), "taken_at": plan.taken_at.isoformat()}


def report_reply(report: Report | None, operation: str | None) -> dict[str, Any] | None:
    """The report of that operation, or of any."""
    if report is None or operation not in (None, report.operation):
        return None
    return report.model_dump(mode="json")


def drill_reply(record: DrillRecord | None) -> dict[str, Any] | None:
    return record.model_dump(mode="json", exclude={"inode", "size", "sql_sha256"}) if record else None


def drills_reply(records: DrillRecords) -> dict[str, Any]:
    return {"last": drill_reply(records.last()), "proved": drill_reply(records.last_proved())}


def replaced_row(kept: Replaced) -> dict[str, Any]:
    return kept.model_dump(mode="json", include={"database", "replaced_at", "keep_until", "snapshot", "problem"})


def job_row(state: JobState) -> dict[str, Any]:
    run = state.last_run
    failed = run is not None and run.status == "failed"
    return {
        "name": state.name,
        "schedule": state.schedule,
        "state": "failed to load" if state.problem else "paused" if state.paused else "active",
        "next_run": state.next_run and state.next_run.isoformat(),
        "last_run": run and run.started_at.isoformat(),
        "last_outcome": run and str(run.status),
        "last_error": state.problem or (run.message if run and failed else None),
        "plugin": state.name,
    }


def destination_row(state: DestinationState) -> dict[str, Any]:
    failure = state.failure
    return {
        "name": state.name,
        "location": state.location,
        "streams": list(state.streams),
        "dumps": state.dumps,
        "since": state.since and state.since.isoformat(),
        "done_at": state.done_at and state.done_at.isoformat(),
        "running": state.running,
        "problem": state.problem or (failure.message if failure else None),
        "hint": state.hint or (failure.hint if failure else None),
        "frozen": state.frozen,
    }


def limits_reply(thresholds: Thresholds) -> dict[str, float]:
    return {f"{name}_s": limit.total_seconds() for name, limit in vars(thresholds).items()}


def room_reply(room: Room) -> dict[str, int]:
    return {"free": room.free, "total": room.total, "dump": room.dump, "fits": room.dumps}


def alarm_row(state: AlarmState) -> dict[str, Any]:
    return {
        "name": state.name,
        "type": state.kind,
        "told_at": state.told_at and state.told_at.isoformat(),
        "problem": state.problem,
        "hint": state.hint,
    }


def tested_row(tested: Tested) -> dict[str, Any]:
    return {"name": tested.name, "type": tested.kind, "error": tested.error and tested.error.as_dict()}


def upload_result(name: str, operation: Operation[UploadOutcome]) -> dict[str, Any]:
    """How an upload ended, whichever way."""
    error = operation.result.exception()
    if error is None:
        return {**asdict(operation.result.result()), "error": None}
    told = error.as_dict() if isinstance(error, ArcbackupdError) else None
    return {"destination": name, "files": 0, "bytes": 0, "removed": [], "problems": [], "error": told}


def last_good_reply(backup: Backup, now: datetime) -> dict[str, Any]:
    age = (now - backup.taken_at).total_seconds()
    return {"name": backup.name, "taken_at": backup.taken_at.isoformat(), "age_s": round(age)}


def operation_reply(operation: Operation[Any]) -> dict[str, Any]:
    return {
        "id": operation.id,
        "kind": operation.kind,
        "state": operation.state,
        "started_at": operation.started_at and operation.started_at.isoformat(),
        "event": operation.last_event and as_dict(operation.last_event),
    }
