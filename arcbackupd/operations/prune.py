"""Prune: remove the backups that retention no longer keeps."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from arcbackupd.dumps.catalogue import Backup, Catalogue
from arcbackupd.dumps.outlook import outlook
from arcbackupd.dumps.retention import Candidate, Plan, Policy, plan_retention
from arcbackupd.dumps.writer import make_durable
from arcbackupd.errors import ArcbackupdError
from arcbackupd.log import failure, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.backups_dir import check_shared_path, disk_error, locked
from arcbackupd.operations.cancellation import Cancellation
from arcbackupd.operations.events import Notice, Step, Steps

_log = get_logger()
Doubt = Callable[[], str | None]
"""Looks at the clock and tells in a sentence why it can't be trusted now, if that is so."""
Flags = Callable[[Sequence[Backup]], Container[str]]
"""Tells which of some backups are flagged, by their names."""


def no_flags(_: Sequence[Backup]) -> Container[str]:
    """None of them."""
    return ()


@dataclass(frozen=True)
class RetentionPlan:
    """What retention says of the backups that are there."""

    plan: Plan
    backups: tuple[Backup, ...]

    @property
    def pruned(self) -> list[Backup]:
        """The backups that go."""
        names = set(self.plan.pruned)
        return [backup for backup in self.backups if backup.name in names]

    @property
    def freed(self) -> int:
        """Bytes that pruning frees: a file goes with the last of its names."""
        return _freed(self.pruned)


@dataclass(frozen=True)
class PruneOutcome:
    """What was removed, and what that freed in bytes."""

    plan: RetentionPlan
    removed: tuple[str, ...]
    freed: int


def plan_prune(
    catalogue: Catalogue,
    directory: Path,
    policy: Policy,
    host: str,
    clock_doubt: Doubt,
    flags: Flags = no_flags,
) -> RetentionPlan:
    """What pruning now would do; touches nothing."""
    backups = catalogue.read(directory)
    flagged = flags(backups)
    candidates = [_candidate(backup, host, flagged=backup.name in flagged) for backup in backups]
    now = datetime.now(UTC)  # before the look at the clock: the other way round, a jump between them went unnoticed
    return RetentionPlan(plan_retention(candidates, policy, now, clock_doubt()), tuple(backups))


def plan_outlook(
    catalogue: Catalogue, directory: Path, policy: Policy, host: str, every: timedelta, flags: Flags = no_flags
) -> dict[str, datetime]:
    """When each backup will go, by name, if a good dump comes ``every`` so often; touches nothing."""
    backups = catalogue.read(directory)
    flagged = flags(backups)
    candidates = [_candidate(backup, host, flagged=backup.name in flagged) for backup in backups]
    return outlook(candidates, policy, datetime.now(UTC), every=every)


def prune(
    catalogue: Catalogue,
    directory: Path,
    policy: Policy,
    host: str,
    clock_doubt: Doubt,
    cancellation: Cancellation,
    flags: Flags = no_flags,
) -> Steps[PruneOutcome]:
    """Remove what retention doesn't keep. Raise OperationFailed when a file can't be removed; the others stay."""
    check_shared_path(directory)
    if not directory.is_dir():
        nothing = RetentionPlan(plan_retention([], policy, datetime.now(UTC), clock_doubt()), ())
        return PruneOutcome(nothing, (), 0)
    with (yield from locked(directory, cancellation)):
        planned = plan_prune(catalogue, directory, policy, host, clock_doubt, flags)
        if planned.plan.frozen:
            yield Notice(f"Nothing is pruned: {planned.plan.frozen}")
        elif planned.plan.held:
            yield Notice(planned.plan.held)
        yield Step("remove", f"Removing {len(planned.pruned)} of {len(planned.backups)} backups")
        removed = [backup for backup in planned.pruned if _remove(directory, backup)]
        make_durable(directory)
    return PruneOutcome(planned, tuple(backup.name for backup in removed), _freed(removed))


def logged(steps: Steps[PruneOutcome]) -> Steps[PruneOutcome]:
    """Let the journal tell how it ends."""
    try:
        outcome = yield from steps
    except ArcbackupdError as error:
        failure(error)
        raise
    plan = outcome.plan.plan
    if plan.frozen:
        _log.warning(f"Nothing was pruned: {plan.frozen}", message_id=MessageId.PRUNE_FROZEN)
        return outcome
    if plan.held:
        _log.warning(plan.held)
    text = f"Pruned {len(outcome.removed)} backups, kept {len(outcome.plan.backups) - len(outcome.removed)}"
    _log.info(text, message_id=MessageId.PRUNE_DONE, bytes=outcome.freed, backups=", ".join(outcome.removed))
    return outcome


def _candidate(backup: Backup, host: str, *, flagged: bool) -> Candidate:
    ours = backup.manifest is not None and backup.manifest.host == host
    return Candidate(
        name=backup.name,
        taken_at=backup.taken_at,
        counts_from=backup.taken_at if ours else max(backup.taken_at, backup.arrived_at),
        good={"good": True, "broken": False, "unscanned": None}[backup.state],
        content=backup.content,
        flagged=flagged,
        ours=ours,
    )


def _remove(directory: Path, backup: Backup) -> bool:
    """Remove the very file that was judged; another one under its name stays."""
    path = directory / backup.name
    try:
        status = path.lstat()
        if (status.st_ino, status.st_size) != (backup.identity.inode, backup.identity.size):
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise disk_error(error, directory) from error
    return True


def _freed(backups: Iterable[Backup]) -> int:
    names: dict[int, list[Backup]] = {}
    for backup in backups:
        names.setdefault(backup.identity.inode, []).append(backup)
    return sum(same[0].size for same in names.values() if len(same) >= same[0].links)
