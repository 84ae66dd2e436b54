"""Hold the backend still while its dump is taken, so that whatever happens to us it is let go.

What lets go, each for itself and as often as it likes: the daemon; a shell of its own that has the deadline too
(`Guard`); a timer of systemd's; the unit's ``ExecStopPost=``; the daemon's next start; and
``arcbackupd release`` by hand. The last three go by a note in the state directory.
"""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

from arcbackupd.errors import ArcbackupdError, OperationFailed
from arcbackupd.log import failure, get_logger
from arcbackupd.messages import MessageId
from arcbackupd.operations.hold import Hold, not_let_go
from arcbackupd.settings import Boot
from arcbackupd.stack import ContainerRun, Engine, HealthCheck
from arcbackupd.stack.freezer import Freezer, find_freezer
from arcbackupd.stack.signals import is_asked_to_end
from arcbackupd.stack.standby import timer, under_systemd

LATE = timedelta(seconds=2)
"""How long after its start a backend may still be frozen: later it may be in the middle of a migration."""
_LOOK_SECONDS = 1.0
_SPARE_SECONDS = 5.0
"""By how much what stands by is later than the daemon itself."""
_log = get_logger()


class Holder:
    """Holds the backend, one run of it at a time."""

    def __init__(self, engine: Engine, settings: Boot, state_dir: Path) -> None:
        self._engine = engine
        self._settings = settings
        self._state_dir = state_dir
        self._lock = threading.RLock()
        self._hold: Hold | None = None
        self._refusal = ("", "")
        """The container that was last not held, and why."""
        self._stopped = ("", datetime.min.replace(tzinfo=UTC))
        """The container that was last being stopped, and when."""

    @property
    def is_holding(self) -> bool:
        """Whether a container stands still for us."""
        return self._hold is not None and self._hold.lasts

    def succeed(self, previous: Holder) -> None:
        """Take over what the configuration before holds."""
        self._hold, self._refusal = previous._hold, previous._refusal

    def seize(self, container: str, started_at: datetime, pid: int = 0) -> None:
        """Hold a container that has just started; why it can't be held is told by `why_not`.

        What is done here comes before the first line of the backend's own code, so it is little.
        """
        with self._lock:
            if self.hold_of(container, started_at):
                return
            self.release("another start of the backend came")
            if why := self._why_not_to(started_at) or self._why_not_any_more(container, started_at):
                self._refusal = (container, why)
            else:
                self._freeze(container, started_at, pid)

    def _freeze(self, container: str, started_at: datetime, pid: int) -> None:
        try:
            freezer = self._find(container, pid)
            seconds = self._settings.max_hold.total_seconds()
            hold = Hold(container, started_at, freezer, self._state_dir, seconds + _SPARE_SECONDS)
        except OSError as error:
            self._refuse(container, _not_frozen(error))
        except ArcbackupdError as error:
            self._refuse(container, error)
        else:
            self._hold = hold
            _log.info("The backend stands still until its dump is taken")
            threading.Thread(target=self._stand_by, args=(hold,), name="hold", daemon=True).start()

    def _find(self, container: str, pid: int) -> Freezer:
        try:
            return find_freezer(container, pid)
        except ArcbackupdError:  # in an unusual place, which its first process tells
            run = None if pid else self._engine.backend_run()
            if run is None or run.container != container:
                raise
            return find_freezer(container, run.pid)

    def hold_of(self, container: str, started_at: datetime | None) -> Hold | None:
        """The hold of that run of a container, if it lasts."""
        hold = self._hold
        if hold is None or not hold.lasts or hold.container != container:
            return None
        if started_at is None:
            return hold
        # The engine tells of a start a moment after the time that it notes for it.
        return hold if started_at <= hold.since and hold.started_at - started_at <= LATE else None

    def why_not(self, run: ContainerRun) -> str:
        """Why a run isn't held, for people."""
        container, why = self._refusal
        if self._settings.hold and container and container == run.container:
            return why
        return self._why_not_to(run.started_at) or "its hold was over before the dump had begun"

    def release(self, why: str, *, too_long: bool = False) -> None:
        """Let go whatever is held. ``why`` completes "The backend goes on: …"."""
        with self._lock:
            self._release(why, too_long=too_long)

    def _release(self, why: str, *, too_long: bool) -> None:
        hold = self._hold
        if hold is None:
            return
        try:
            ended = hold.end()
        except OSError as error:
            failure(not_let_go(hold.freezer, error), message_id=MessageId.HOLD_STUCK)
            return
        if ended:
            held = round((datetime.now(UTC) - hold.since).total_seconds(), 3)
            if too_long:
                _log.warning(f"The backend goes on: {why}", duration_s=held, message_id=MessageId.HOLD_TOO_LONG)
            else:
                _log.info(f"The backend goes on: {why}", duration_s=held)

    def stopping(self, container: str, at: datetime | None = None) -> None:
        """Somebody ends that container: what stands still can't hear it.

        ``at``: when; podman may tell of an end only after the start that followed it.
        """
        at = at or datetime.now(UTC)
        self._stopped = (container, at)
        if self._hold and self._hold.container == container and self._hold.started_at <= at:
            self.release("it is being stopped")

    def _refuse(self, container: str, error: ArcbackupdError) -> None:
        self._refusal = (container, error.message)
        _log.warning(error.message, hint=error.hint, message_id=MessageId.BACKEND_NOT_HELD)

    def _why_not_to(self, started_at: datetime | None) -> str:
        if not self._settings.hold:
            return "boot.hold is off"
        if started_at is None:
            return "without a container it can't be held"
        if datetime.now(UTC) - started_at > LATE:
            return "its start was noticed too late"
        return ""

    def _why_not_any_more(self, container: str, started_at: datetime) -> str:
        stopped, at = self._stopped
        return "it was being stopped" if stopped == container and started_at <= at else ""

    def _stand_by(self, hold: Hold) -> None:
        """In a thread of its own: see that the hold ends in time."""
        with contextlib.ExitStack() as standing_by:
            if under_systemd():
                seconds = self._settings.max_hold.total_seconds() + _SPARE_SECONDS
                try:
                    standing_by.enter_context(timer(hold.container[:12], hold.freezer, seconds))
                except ArcbackupdError as error:
                    _log.warning(error.message, hint=error.hint)
            run = self._look(hold)
            ends_at, why = self._end_of(hold, run)
            while not hold.wait(min(max((ends_at - datetime.now(UTC)).total_seconds(), 0), _LOOK_SECONDS)):
                # docker tells of a stop before it begins; podman only once the container has heard of it
                if run and is_asked_to_end(run.pid):
                    self.stopping(hold.container)
                elif datetime.now(UTC) >= ends_at:
                    if hold is self._hold:
                        self.release(why, too_long=True)
                    return

    def _look(self, hold: Hold) -> ContainerRun | None:
        try:
            run = self._engine.backend_run()
        except ArcbackupdError as error:
            _log.warning(error.message, hint=error.hint)
            return None
        return run if run and run.container == hold.container else None

    def _end_of(self, hold: Hold, run: ContainerRun | None) -> tuple[datetime, str]:
        """When the hold must end, and why."""
        at_most = hold.since + self._settings.max_hold
        share = health_share(run.health) if run and run.health else None
        if share is not None and hold.started_at + share < at_most:
            return hold.started_at + share, _HEALTH_COUNTS
        return at_most, _OVER_TIME


_OVER_TIME = "its dump takes longer than boot.max_hold"
_HEALTH_COUNTS = "its dump takes longer than half of what its health check allows for a start"


def health_share(check: HealthCheck) -> timedelta:
    """How long a hold may last after the start: half of the time in which the container can't become unhealthy.

    The engine counts it from the container's start, and nothing outside can change that; the other half is the
    backend's own.
    """
    return (check.start_period + (check.retries - 1) * check.interval) / 2


def _not_frozen(error: OSError) -> OperationFailed:
    hint = (
        "Let the service write to the engine's control groups: the ReadWritePaths= of arcbackupd.service; those"
        " that weren't there when it started count from its next start on. Or set boot.hold = false."
    )
    return OperationFailed("not-frozen", f"The backend could not be held: {error.strerror}.", hint=hint)
