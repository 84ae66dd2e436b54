"""What the control socket offers, as one table: the method, who may call it, what it takes, what handles it.

A new method is a row in ``METHODS``, its text in ``io.arcsecond.Backups.varlink`` (which a test holds
against this table), and a handler on the service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from arcbackupd.control import INTERFACE
from arcbackupd.control.access import Access, Peer
from arcbackupd.errors import ArcbackupdError, Busy, NoSuchBackup, OperationFailed, Refused, UsageError

SERVICE_INTERFACE = "org.varlink.service"
Reply = Mapping[str, object]
"""The parameters of a reply: what JSON can hold."""


class Parameters(BaseModel):
    """What a method takes. Nothing unknown, nothing converted; null and absent mean the same."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class NoParameters(Parameters):
    """For methods that take nothing."""


class InspectParameters(Parameters):
    """``reference``: index, name, unique prefix or ``latest``; ``verify``: read it all against its hashes."""

    reference: Annotated[str, Field(min_length=1, max_length=255)]
    verify: bool | None = None


class BackupParameters(Parameters):
    """``wait``: answer when the backup is published (the default), or at once."""

    wait: bool | None = None


class AcceptParameters(Parameters):
    """``name``: which backup."""

    name: Annotated[str, Field(min_length=1, max_length=255)]


class JobParameters(Parameters):
    """``name``: which job."""

    name: Annotated[str, Field(min_length=1, max_length=100)]


class RestoreParameters(Parameters):
    """``name``: which backup; the rest are the options of a restore, of which none is on unless said."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    in_place: bool | None = None
    safety_backup: bool | None = None
    create_missing_roles: bool | None = None
    force: bool | None = None


class RetentionParameters(Parameters):
    """``outlook``: tell also when each backup will go."""

    outlook: bool | None = None


class UploadParameters(Parameters):
    """``destination``: which one; without it, all."""

    destination: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class AlarmParameters(Parameters):
    """``name``: which alarm; without it, all."""

    name: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class FetchParameters(Parameters):
    """``name``: which backup; ``identity``: the text of an age identity file, for an encrypted one."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    identity: Annotated[str, Field(min_length=1, max_length=32_768)] | None = None


class VerifyParameters(Parameters):
    """``reference``: index, name, unique prefix or ``latest``."""

    reference: Annotated[str, Field(min_length=1, max_length=255)]


class OperationParameters(Parameters):
    """``operation``: the id of one."""

    operation: Annotated[str, Field(min_length=1, max_length=64)]


class AttachParameters(Parameters):
    """``operation``: the id of one; without it, the one that runs."""

    operation: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class PeerGone(ConnectionError):
    """The client went away, or doesn't read. Raised by ``Call.send``; a handler lets it pass."""


ParametersT_co = TypeVar("ParametersT_co", bound=Parameters, covariant=True)


@dataclass(frozen=True)
class Call(Generic[ParametersT_co]):
    """One call, as its handler sees it."""

    parameters: ParametersT_co
    peer: Peer
    wants_more: bool
    """Whether the client asked for a stream."""
    write: Callable[[Reply], Awaitable[None]]
    """Where ``send`` goes; handlers use ``send``."""

    async def send(self, reply: Reply) -> None:
        """Stream one intermediate reply; nothing happens when the client didn't ask for a stream.

        Waits until the client has taken it. Raise PeerGone when it doesn't in time, or is gone.
        """
        if self.wants_more:
            await self.write(reply)


class BackupsService(Protocol):
    """What answers the calls. One handler a row; what it returns is the (last) reply.

    An ArcbackupdError that a handler raises reaches the client as it is; anything else as an internal
    error, without details. A handler is cancelled when its client goes away: the work belongs to
    somebody else (an operation), the handler only listens to it.
    """

    async def list_backups(self, call: Call[NoParameters]) -> Reply:
        """All backups."""

    async def inspect(self, call: Call[InspectParameters]) -> Reply:
        """One backup in full."""

    async def backup(self, call: Call[BackupParameters]) -> Reply:
        """Take a backup."""

    async def verify(self, call: Call[VerifyParameters]) -> Reply:
        """Prove that a backup can be restored."""

    async def prune(self, call: Call[NoParameters]) -> Reply:
        """Remove what retention no longer keeps."""

    async def plan_retention(self, call: Call[RetentionParameters]) -> Reply:
        """What prune would do."""

    async def accept(self, call: Call[AcceptParameters]) -> Reply:
        """Take what a flagged backup holds for what it should be."""

    async def jobs(self, call: Call[NoParameters]) -> Reply:
        """All jobs."""

    async def run_job(self, call: Call[JobParameters]) -> Reply:
        """Run a job now."""

    async def pause_job(self, call: Call[JobParameters]) -> Reply:
        """Keep a job from running."""

    async def resume_job(self, call: Call[JobParameters]) -> Reply:
        """Let a paused job run again."""

    async def status(self, call: Call[NoParameters]) -> Reply:
        """Whether the data is safe."""

    async def test_alarms(self, call: Call[AlarmParameters]) -> Reply:
        """Let alarms tell that this is a test."""

    async def diagnose(self, call: Call[NoParameters]) -> Reply:
        """Go through all checks."""

    async def attach(self, call: Call[AttachParameters]) -> Reply:
        """Follow the operation that runs."""

    async def plan_upload(self, call: Call[UploadParameters]) -> Reply:
        """What an upload would do."""

    async def upload(self, call: Call[UploadParameters]) -> Reply:
        """Upload what is missing off this host."""

    async def fetch(self, call: Call[FetchParameters]) -> Reply:
        """Bring a backup back that is only off this host."""

    async def plan_restore(self, call: Call[RestoreParameters]) -> Reply:
        """What a restore would do."""

    async def restore(self, call: Call[RestoreParameters]) -> Reply:
        """Restore a backup."""

    async def plan_rollback(self, call: Call[NoParameters]) -> Reply:
        """What a rollback would do."""

    async def rollback(self, call: Call[NoParameters]) -> Reply:
        """Bring back what the last restore replaced."""

    async def discard_replaced(self, call: Call[NoParameters]) -> Reply:
        """Drop what restores replaced."""

    async def cancel(self, call: Call[OperationParameters]) -> Reply:
        """Tell an operation to stop."""


Handler = Callable[[Call[Any]], Awaitable[Reply]]


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    access: Access
    handler: str
    """Name of the handler on the service."""
    parameters: type[Parameters] = NoParameters
    streams: bool = False
    """Whether it may send intermediate replies to a client that asks for ``more``."""


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("List", Access.READ, "list_backups"),
        Method("Inspect", Access.READ, "inspect", InspectParameters, streams=True),
        Method("Backup", Access.OPERATE, "backup", BackupParameters, streams=True),
        # It runs what the dump says as a superuser of a database server, and a dump may have come from anybody.
        Method("Verify", Access.ADMIN, "verify", VerifyParameters, streams=True),
        Method("Prune", Access.ADMIN, "prune"),
        Method("PlanRetention", Access.READ, "plan_retention", RetentionParameters),
        # From then on, older ones that hold what is missing in it may be pruned.
        Method("Accept", Access.ADMIN, "accept", AcceptParameters),
        Method("Jobs", Access.READ, "jobs"),
        # A job may do anything that its plugin does, prune included: running one is for admins.
        Method("RunJob", Access.ADMIN, "run_job", JobParameters),
        Method("PauseJob", Access.ADMIN, "pause_job", JobParameters),
        Method("ResumeJob", Access.ADMIN, "resume_job", JobParameters),
        Method("Status", Access.READ, "status"),
        # Whoever may read the status may see that it reaches people; all it can do is to reach them.
        Method("TestAlarms", Access.OPERATE, "test_alarms", AlarmParameters),
        # It asks the database and every destination, and so is for those who may take a backup.
        Method("Diagnose", Access.OPERATE, "diagnose", streams=True),
        Method("Attach", Access.READ, "attach", AttachParameters, streams=True),
        Method("PlanUpload", Access.ADMIN, "plan_upload", UploadParameters),
        Method("Upload", Access.ADMIN, "upload", UploadParameters, streams=True),
        Method("Fetch", Access.ADMIN, "fetch", FetchParameters, streams=True),
        Method("PlanRestore", Access.ADMIN, "plan_restore", RestoreParameters),
        Method("Restore", Access.ADMIN, "restore", RestoreParameters, streams=True),
        Method("PlanRollback", Access.ADMIN, "plan_rollback"),
        Method("Rollback", Access.ADMIN, "rollback", streams=True),
        Method("DiscardReplaced", Access.ADMIN, "discard_replaced"),
        Method("Cancel", Access.ADMIN, "cancel", OperationParameters),
    )
}

ERRORS: tuple[type[ArcbackupdError], ...] = (OperationFailed, UsageError, NoSuchBackup, Refused, Busy)
"""The errors of the interface, each under the name of its class."""


def error_name(error: ArcbackupdError) -> str:
    """Full name under which an error travels; OperationFailed for one that the interface doesn't have."""
    kind = next((kind for kind in ERRORS if isinstance(error, kind)), OperationFailed)
    return f"{INTERFACE}.{kind.__name__}"


@cache
def description(interface: str) -> str | None:
    """Text of an interface; None when it isn't offered."""
    if interface not in (INTERFACE, SERVICE_INTERFACE):
        return None
    return files("arcbackupd.control").joinpath(f"{interface}.varlink").read_text("utf-8")
