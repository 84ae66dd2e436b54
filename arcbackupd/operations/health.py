"""Whether the data are safe, from facts: what `status` says and exits with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from arcbackupd.operations.anomalies import summary, what_to_do


class Severity(StrEnum):
    """How bad a problem is; also the state as a whole."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be, and what to do about it."""

    code: str
    message: str
    hint: str
    severity: Severity


@dataclass(frozen=True)
class Thresholds:
    """From which age of the newest good dump on it is a warning, and critical."""

    warn_after: timedelta
    critical_after: timedelta


@dataclass(frozen=True)
class Flagged:
    """The newest good backup, if it lost much against its history, and the newest one that didn't."""

    name: str
    anomalies: tuple[str, ...]
    healthy: str | None


@dataclass(frozen=True)
class Facts:
    """What the judgement rests on. ``trouble`` are problems that were found while the facts were gathered."""

    now: datetime
    started_at: datetime
    last_good: datetime | None
    last_dump_error: str | None = None
    frozen: str | None = None
    clock_doubt: str | None = None
    failed_jobs: dict[str, str] = field(default_factory=dict)
    paused_jobs: tuple[str, ...] = ()
    trouble: tuple[Problem, ...] = ()
    looked: bool = True
    """Whether the backups could be looked at; otherwise nothing is known of the last good one."""
    flagged: Flagged | None = None


def assess(facts: Facts, thresholds: Thresholds) -> tuple[Severity, list[Problem]]:
    """The state, that of the worst problem, and the problems, worst first."""
    problems = [*facts.trouble, *_age(facts, thresholds), *_jobs(facts), *_retention(facts), *_anomalies(facts)]
    order = [Severity.CRITICAL, Severity.WARNING]
    problems.sort(key=lambda problem: order.index(problem.severity))
    return (problems[0].severity if problems else Severity.OK), problems


def _age(facts: Facts, thresholds: Thresholds) -> list[Problem]:
    hint = "`arcbackupctl backup` takes one now; `journalctl -u arcbackupd` tells why none was taken."
    failed = f" The last try failed: {facts.last_dump_error}" if facts.last_dump_error else ""
    if not facts.looked:
        return []
    if facts.last_good is None:
        young = facts.now - facts.started_at < thresholds.warn_after
        severity = Severity.WARNING if young else Severity.CRITICAL
        return [Problem("no-good-backup", f"There is no good backup.{failed}", hint, severity)]
    age = facts.now - facts.last_good
    if age >= thresholds.critical_after:
        return [Problem("last-good-old", _old(age) + failed, hint, Severity.CRITICAL)]
    if age >= thresholds.warn_after:
        return [Problem("last-good-old", _old(age) + failed, hint, Severity.WARNING)]
    if facts.last_dump_error:
        return [Problem("dump-failed", f"The last dump failed: {facts.last_dump_error}", hint, Severity.WARNING)]
    return []


def _old(age: timedelta) -> str:
    hours = age.total_seconds() / 3600
    how_old = f"{hours:.1f} hours" if hours < 2 * 24 else f"{hours / 24:.0f} days"
    return f"The newest good backup is {how_old} old."


def _jobs(facts: Facts) -> list[Problem]:
    failed = [
        Problem(
            "job-failed-to-load",
            f"Job {name} failed to load: {why}",
            "Repair its package, or remove its table.",
            Severity.WARNING,
        )
        for name, why in facts.failed_jobs.items()
    ]
    paused = [
        Problem("job-paused", f"Job {name} is paused.", f"`arcbackupctl jobs resume {name}`.", Severity.WARNING)
        for name in facts.paused_jobs
    ]
    return failed + paused


def _retention(facts: Facts) -> list[Problem]:
    if facts.clock_doubt:
        hint = "Check the clock: `timedatectl`."
        return [Problem("clock-jumped", facts.clock_doubt, hint, Severity.WARNING)]
    if facts.frozen and facts.last_good is not None:
        hint = "Nothing is lost: pruning goes on with the next good dump."
        return [Problem("retention-frozen", facts.frozen, hint, Severity.WARNING)]
    return []


def _anomalies(facts: Facts) -> list[Problem]:
    if facts.flagged is None:
        return []
    name, anomalies, healthy = facts.flagged.name, facts.flagged.anomalies, facts.flagged.healthy
    message = (
        f"The newest backup, {name}, is flagged: {summary(anomalies)}. Older ones are kept until that is settled."
    )
    return [Problem("dump-anomaly", message, what_to_do(name, healthy), Severity.WARNING)]
