"""The way of a restore from its first step to its end, or back; also for what another process began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.log import get_logger
from arcbackupd.operations.cancellation import INTERRUPTED, Cancellation, Cancelled
from arcbackupd.operations.events import Notice, Step, Steps
from arcbackupd.operations.restore.in_place import CloseUnwritten, Drop, TakeSnapshot, TakeSnapshotAgain
from arcbackupd.operations.restore.services import NOT_UP
from arcbackupd.operations.restore.steps import (
    Analyze,
    Check,
    Close,
    Create,
    Keep,
    Load,
    StartServices,
    StopServices,
    Swap,
)
from arcbackupd.operations.restore.work import RestoreStep, Work
from arcbackupd.postgres.databases import MAINTENANCE

_SERVER_COMES_BACK = timedelta(minutes=1)
_log = get_logger()


@dataclass(frozen=True)
class Ended:
    """How it ended: ``restored``, ``rolled-back``, ``undone`` or ``unfinished``; ``problem`` is what went wrong."""

    outcome: str
    problem: ArcbackupdError | None = None


class _Stand(Enum):
    """What the server's databases say about how far it came."""

    BEFORE = "the live database is the old one"
    AFTER = "the live database is the new one"
    DROPPED = "the live database was dropped"
    FOREIGN = "the live database is neither"


def plan(work: Work) -> list[RestoreStep]:
    """All steps, in their order."""
    journal = work.journal
    kinds: list[type[RestoreStep]]
    if journal.kind == "rollback":
        kinds = [Check, StopServices, *([Close] if journal.live else []), Swap, Keep, StartServices]
    elif not journal.in_place:
        kinds = [Create, Load, Analyze, Check, StopServices, Close, Swap, Keep, StartServices]
    elif journal.live is None or journal.dropped_before:
        kinds = [StopServices, *_LOADED_IN_PLACE]
    elif journal.safety_backup:
        kinds = [TakeSnapshot, Check, StopServices, TakeSnapshotAgain, CloseUnwritten, Drop, *_LOADED_IN_PLACE]
    else:
        kinds = [Check, StopServices, Close, Drop, *_LOADED_IN_PLACE]
    return [kind(work) for kind in kinds]


_LOADED_IN_PLACE: list[type[RestoreStep]] = [Create, Load, Analyze, Swap, StartServices]


def carry_out(work: Work) -> Steps[Ended]:
    """Do all of it, or undo what was done. Raises nothing that an operator could act on: the outcome says it."""
    return (yield from _attempt(work, plan(work)))


def take_up(work: Work) -> Steps[Ended]:
    """Finish or undo what another process began."""
    yield Step("look", f"Looking how far the interrupted {work.journal.kind} came")
    return (yield from _settle(work, None))


def _attempt(work: Work, steps: Sequence[RestoreStep]) -> Steps[Ended]:
    try:
        for step in steps:
            if not work.cancellation.too_late.is_set():
                work.cancellation.check()
            work.note(step=step.name)
            yield Step(step.name, step.text)
            yield from step.run()
    except ArcbackupdError as error:
        return (yield from _settle(work, error))
    except Exception as error:  # noqa: BLE001  # whatever it is, the database must not be left as it stands
        _log.error("A restore failed in a way nobody foresaw", exc_info=error)
        hint = "This is a defect of arcbackupd; the journal has the details: `journalctl -u arcbackupd`."
        unforeseen = OperationFailed("internal", f"It failed unexpectedly ({type(error).__name__}).", hint=hint)
        return (yield from _settle(work, unforeseen))
    work.file.clear()
    return _done(work, None)


def _settle(work: Work, failure: ArcbackupdError | None) -> Steps[Ended]:
    """After a failure, or a crash (``failure`` is ``None``): finish or undo, by what the server says."""
    try:
        stand = _stand(work)
        if stand is _Stand.BEFORE:
            return (yield from _undo(work, failure))
        if stand is _Stand.AFTER:
            return (yield from _finish(work, failure))
        if stand is _Stand.DROPPED:
            return (yield from _load_in_place(work, failure))
        return (yield from _give_way(work))
    except ArcbackupdError as error:
        return _unfinished(failure or error, error)


def _stand(work: Work) -> _Stand:
    journal = work.journal
    work.server.database(MAINTENANCE).wait_until_accepting(_SERVER_COMES_BACK, Cancellation(), starting=True)
    live = work.server.properties(journal.database)
    if live and live.oid == journal.incoming_oid:
        return _Stand.AFTER
    if live is None:
        return _Stand.DROPPED if journal.live and journal.kind == "restore" else _Stand.BEFORE
    return _Stand.BEFORE if journal.live and live.oid == journal.live.oid else _Stand.FOREIGN


def _undo(work: Work, failure: ArcbackupdError | None) -> Steps[Ended]:
    steps = plan(work)
    names = [step.name for step in steps]
    begun = steps[: names.index(work.journal.step) + 1] if work.journal.step in names else []
    yield Step("undo", "Undoing what was done")
    down = ""
    for step in reversed(begun):
        try:
            yield from step.undo()
        except OperationFailed as error:
            if error.code != NOT_UP:
                raise
            down = f" {error.message}"
    work.file.clear()
    state = (
        f"{work.journal.database} is what it was before." if work.journal.live else "There is still no database."
    )
    return Ended("undone", _told(failure or _interrupted(work), f"{state}{down}"))


def _finish(work: Work, failure: ArcbackupdError | None) -> Steps[Ended]:
    """The new database has the name: what is left to do is done, and nothing is undone any more."""
    work.cancellation.too_late.set()
    work.committed = True
    if failure and failure.code == NOT_UP:
        work.file.clear()
        return _done(work, failure)
    if failure and work.journal.step != Swap.name:  # of the swap itself only the answer was lost
        return _unfinished(failure, failure)
    steps = plan(work)
    last = [step.name for step in steps].index(Swap.name)
    return (yield from _attempt(work, steps[last + 1 :]))


def _load_in_place(work: Work, failure: ArcbackupdError | None) -> Steps[Ended]:
    """There is no live database: the dump, or else the snapshot, becomes it."""
    work.cancellation.too_late.set()
    if failure:
        if failure.code in INTERRUPTED or work.journal.putting_back or work.journal.snapshot is None:
            return _unfinished(failure, failure)
        yield Notice(f"{failure.message} The safety backup {work.journal.snapshot} is put back.")
        work.note(putting_back=True)
        ended = yield from _attempt(work, [kind(work) for kind in _LOADED_IN_PLACE])
        told = f"{failure.message} {ended.problem.message}" if ended.problem else failure.message
        return Ended(ended.outcome, type(failure)(failure.code, told, hint=failure.hint))
    return (yield from _attempt(work, [kind(work) for kind in _LOADED_IN_PLACE]))


def _give_way(work: Work) -> Steps[Ended]:
    """Somebody made another database of that name meanwhile: it is left alone, and so is what they did."""
    if work.journal.kind == "restore":
        work.server.drop(work.journal.incoming)
    yield from StopServices(work).undo()
    work.file.clear()
    hint = (
        "Look at it, and at the server's other databases (`psql -l`); then restore again if it isn't what you want."
    )
    message = (
        f"{work.journal.database} is neither the database from before nor the restored one: it is left as it is."
    )
    return Ended("undone", OperationFailed("database-changed", message, hint=hint))


def _done(work: Work, problem: ArcbackupdError | None) -> Ended:
    journal = work.journal
    if journal.putting_back:
        state = f"{journal.database} was put back from {journal.snapshot}."
        return Ended("undone", _told(problem, state) if problem else OperationFailed("put-back", state))
    if problem:
        problem = _told(problem, f"{journal.database} is the restored one.")
    return Ended("rolled-back" if journal.kind == "rollback" else "restored", problem)


def _interrupted(work: Work) -> OperationFailed:
    hint = "Begin anew if it is still wanted."
    return OperationFailed(
        "interrupted", f"The {work.journal.kind} was interrupted by the end of the daemon.", hint=hint
    )


def _unfinished(failure: ArcbackupdError, why: ArcbackupdError) -> Ended:
    if isinstance(failure, Cancelled):
        hint = (
            "`systemctl start arcbackupd` if it doesn't start by itself; `arcbackupctl status` tells how it ended."
        )
        message = f"It was interrupted because {failure.why}, and is finished when the daemon starts again."
        return Ended("unfinished", OperationFailed(failure.code, message, hint=hint))
    state = f"It is neither finished nor undone yet{'' if why is failure else f': {why.message}'}"
    told = _told(failure, f"{state.rstrip('.')}. The daemon tries again every minute, and when it starts.")
    return Ended("unfinished", told)


def _told(failure: ArcbackupdError, state: str) -> ArcbackupdError:
    """The failure, with how things stand now."""
    if isinstance(failure, Cancelled):
        return Cancelled(failure.code, failure.why, state=state, hint=failure.hint)
    return type(failure)(failure.code, f"{failure.message} {state}", hint=failure.hint)
