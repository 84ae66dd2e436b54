"""Pings in the manner of healthchecks.io: ``type = "ping"``.

The service is told of each run's start, success and failure, and raises the alarm by itself when it hears nothing:
also when this host is gone. A run that the daemon's end cut short isn't told: the next one is, or its absence.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar
from urllib.parse import urlencode, urlsplit, urlunsplit

from arcbackupd.alarms import AlarmSettings, JobAlarm, JobAlarmSettings, JobBegan, JobEnded
from arcbackupd.alarms.http import HttpSettings, post
from arcbackupd.alarms.words import TEST, clean

_BODY = 10_000
"""Characters of a reason: services keep no more."""
_LATE = timedelta(minutes=5)
_TEXT = {"Content-Type": "text/plain; charset=utf-8"}


class PingSettings(HttpSettings, JobAlarmSettings):
    """``url``: that of a check, to which ``/start`` and ``/fail`` are added."""


class PingAlarm(JobAlarm[PingSettings]):
    """See the module."""

    Settings: ClassVar[type[AlarmSettings]] = PingSettings

    def began(self, signal: JobBegan) -> None:
        """See `JobAlarm.began`."""
        self._ping("/start", signal.run, "")

    def ended(self, signal: JobEnded) -> None:
        """See `JobAlarm.ended`."""
        late = f" (it ended at {signal.ended_at:%Y-%m-%d %H:%M} UTC)" if _is_late(signal) else ""
        if signal.problem is None:
            self._ping("", signal.run, f"{signal.job}: {signal.message or 'done'}{late}")
        else:
            self._ping("/fail", signal.run, f"{signal.job}: {signal.problem}{late}")

    def test(self) -> None:
        """A failure: a good ping would hide that backups are overdue."""
        self._ping("/fail", None, TEST)

    def _ping(self, suffix: str, run: str | None, body: str) -> None:
        url = with_suffix(self.settings.address(), suffix, run)
        text = f"{self.host}: {clean(body)}"[:_BODY] if body else ""
        post(self.settings, url, text.encode(), _TEXT)


def _is_late(signal: JobEnded) -> bool:
    """Whether the time of the ping isn't that of the run, since it couldn't be delivered at first."""
    return datetime.now(UTC) - signal.ended_at > _LATE


def with_suffix(url: str, suffix: str, run: str | None) -> str:
    """A check's URL for one kind of ping; what stands in its query, as ``create=1``, stays."""
    parts = urlsplit(url)
    query = "&".join(filter(None, [parts.query, urlencode({"rid": run}) if run else ""]))
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + suffix, query, ""))
