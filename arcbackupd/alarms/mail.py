"""News by mail, through the host's own sendmail: ``type = "email"``.

Postfix, Exim, OpenSMTPD, msmtp and nullmailer all have one, and know how this host sends mail.
"""

from __future__ import annotations

import re
from datetime import timedelta
from email import policy
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from arcbackupd.alarms import AlarmError, AlarmSettings, StateAlarm, StateAlarmSettings
from arcbackupd.alarms.news import News
from arcbackupd.alarms.words import TEST, clean, subject, text
from arcbackupd.errors import OperationFailed
from arcbackupd.settings import AbsolutePath, Duration
from arcbackupd.stack.command import Command, TimedOut
from arcbackupd.stack.process import run

_POLICY = policy.default.clone(cte_type="7bit")
"""Lines end by LF alone, as sendmail wants them; nothing beyond ASCII, whatever lies between."""
_ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+(@[A-Za-z0-9.-]+)?")
_SAID = 300


def _address(value: str) -> str:
    # No display name, no list, and nothing that a program could take for an option.
    if not _ADDRESS.fullmatch(value) or value.startswith("-"):
        raise ValueError('must be an address such as "alice@example.org", or a local user')
    return value


Address = Annotated[str, AfterValidator(_address)]


class EmailSettings(StateAlarmSettings):
    """``to``: addresses, or users of this host; ``sender``: the address in From (arcbackupd at this host)."""

    to: Annotated[tuple[Address, ...], Field(min_length=1)]
    sender: Address | None = None
    sendmail: AbsolutePath = Path("/usr/sbin/sendmail")
    timeout: Annotated[Duration, Field(le=timedelta(minutes=5))] = timedelta(seconds=30)


class EmailAlarm(StateAlarm[EmailSettings]):
    """See the module."""

    Settings: ClassVar[type[AlarmSettings]] = EmailSettings

    def tell(self, news: News) -> None:
        """See `StateAlarm.tell`."""
        self._send(subject(news, self.host), text(news, self.host))

    def test(self) -> None:
        """See `Alarm.test`."""
        self._send(f"{self.host}: a test", f"{TEST}\n")

    def _send(self, headline: str, body: str) -> None:
        settings = self.settings
        message = compose(self.host, settings, headline, body)
        command = Command((str(settings.sendmail), "-i", "-t"), name="sendmail")
        try:
            done = run(command, timeout=settings.timeout.total_seconds(), stdin=message)
        except OperationFailed as error:
            raise _failed(error.message, passing=isinstance(error, TimedOut)) from error
        if done.status:
            said = clean(done.error)[-_SAID:]
            raise _failed(f"{settings.sendmail} ended with {done.status}{': ' if said else ''}{said}", passing=True)


def compose(host: str, settings: EmailSettings, headline: str, body: str) -> bytes:
    """The message, as RFC 5322 has it."""
    message = EmailMessage(policy=_POLICY)
    message["From"] = settings.sender or f"arcbackupd@{host}"
    message["To"] = ", ".join(settings.to)
    message["Subject"] = f"[arcbackupd] {clean(headline)}"
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=host)
    message["Auto-Submitted"] = "auto-generated"  # so that no vacation replies
    message.set_content(body)
    return message.as_bytes()


def _failed(why: str, *, passing: bool) -> AlarmError:
    hint = (
        "Try it by hand: `echo test | sendmail -v ADDRESS`. If that works, the service's sandbox is in the way: see"
        " alarms.conf.example in /etc/systemd/system/arcbackupd.service.d."
    )
    return AlarmError("alarm-failed", f"The mail can't be sent: {why.rstrip('.')}.", hint=hint, passing=passing)
