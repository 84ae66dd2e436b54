"""What an alarm is: a way to tell somebody, off this program, how the backups are.

The built-in ones come through the same entry points as a third party's. A package adds a type by one in the group
``arcbackupd.alarms``, whose name is what ``type`` says in the table::

    [project.entry-points."arcbackupd.alarms"]
    lamp = "my_package:LampAlarm"

    class LampSettings(StateAlarmSettings):
        pin: int

    class LampAlarm(StateAlarm[LampSettings]):
        Settings = LampSettings

        def tell(self, news: News) -> None: ...
        def test(self) -> None: ...

and the operator a table ``[alarms.dome]`` with ``type = "lamp"`` and ``pin = 4``.

There are two kinds, and a class may be both: a `JobAlarm` hears of every run of the jobs that it is for, a
`StateAlarm` hears what changed in the state of the whole. All methods block and are called in a thread that is the
alarm's own, one at a time: one that hangs or fails holds up nothing but itself. They raise AlarmError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from arcbackupd.alarms.news import News
from arcbackupd.errors import OperationFailed
from arcbackupd.settings import DurationOrNever


class AlarmSettings(BaseModel):
    """The table ``[alarms.NAME]``; subclasses add their own keys. An unknown key is an error."""

    # The input of a failed validation may be a mistyped secret: it is never shown.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class JobAlarmSettings(AlarmSettings):
    """``jobs``: those whose runs it is told of."""

    jobs: tuple[str, ...] = ("dump",)


class StateAlarmSettings(AlarmSettings):
    """``severity``: the least one that it is told of; ``remind``: how often of what goes on."""

    severity: Literal["warning", "critical"] = "warning"
    remind: DurationOrNever = timedelta(hours=24)


class AlarmError(OperationFailed):
    """It couldn't be told. ``passing``: trying again may help, as with a server that didn't answer.

    Codes: ``alarm-unreachable`` (nobody answers), ``alarm-refused`` (somebody does, and doesn't take it),
    ``alarm-failed`` (anything else).
    """

    def __init__(self, code: str, message: str, *, hint: str = "", passing: bool = False) -> None:
        super().__init__(code, message, hint=hint)
        self.passing = passing


@dataclass(frozen=True)
class JobBegan:
    """A run of a job began; ``run`` is a UUID of its own."""

    job: str
    run: str


@dataclass(frozen=True)
class JobEnded:
    """A run of a job ended: well, or else ``problem`` says why not. ``message`` is what it came to."""

    job: str
    run: str
    ended_at: datetime
    message: str
    problem: str | None


SettingsT = TypeVar("SettingsT", bound=AlarmSettings)


class Alarm(ABC, Generic[SettingsT]):
    """One way to tell somebody. Making the object reaches nobody."""

    Settings: ClassVar[type[AlarmSettings]] = AlarmSettings

    def __init__(self, name: str, settings: SettingsT, host: str) -> None:
        """``name`` is that of its table, ``host`` what this host is called."""
        self.name = name
        self.settings = settings
        self.host = host

    @classmethod
    def problem(cls) -> tuple[str, str] | None:
        """What this host lacks for this type, and what to install; ``None`` when nothing."""
        return None

    @abstractmethod
    def test(self) -> None:
        """Tell that this is a test, in a way that can't be taken for good news."""


JobSettingsT = TypeVar("JobSettingsT", bound=JobAlarmSettings)
StateSettingsT = TypeVar("StateSettingsT", bound=StateAlarmSettings)


class JobAlarm(Alarm[JobSettingsT]):
    """One that is told of the runs of some jobs, as they come."""

    Settings: ClassVar[type[AlarmSettings]] = JobAlarmSettings

    @abstractmethod
    def began(self, signal: JobBegan) -> None:
        """A run began."""

    @abstractmethod
    def ended(self, signal: JobEnded) -> None:
        """A run ended."""


class StateAlarm(Alarm[StateSettingsT]):
    """One that is told when a problem appears, becomes worse or better, or is gone, and reminded of what stays."""

    Settings: ClassVar[type[AlarmSettings]] = StateAlarmSettings

    @abstractmethod
    def tell(self, news: News) -> None:
        """Tell it. What isn't delivered comes again, with what is new by then."""
