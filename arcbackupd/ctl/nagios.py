"""``status`` as a plugin of Nagios and what is compatible: a line with performance data, and exit statuses 0 to 3.

The format is that of the Monitoring Plugins' guidelines: after ``|`` come ``label=value[unit];warn;critical``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from arcbackupd.ctl.render import Row
from arcbackupd.ctl.session import STATUS_UNKNOWN, Session
from arcbackupd.ctl.words import ago, clean, parsed
from arcbackupd.errors import ArcbackupdError, DaemonUnreachable

_CODES = {"ok": 0, "warning": 1, "critical": 2}
_LONGEST = 300
_LISTED = 10
"""Problems in lines of their own: Nagios takes no more than some kilobytes, NRPE may take one."""
_NAMES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


def check(session: Session) -> int:
    """Ask for the status and print it. Who can't answer at all is critical: then nobody takes backups."""
    try:
        reply = session.ask("Status")
        code = _CODES.get(reply["state"], STATUS_UNKNOWN)
        text = plugin_output(reply, session.screen().now)
    except DaemonUnreachable as error:
        code, text = _CODES["critical"], _line(error.message)
    except ArcbackupdError as error:
        code, text = STATUS_UNKNOWN, _line(error.message)
    except Exception:  # noqa: BLE001 - whatever a reply holds: any other exit status than this one has a meaning
        code, text = STATUS_UNKNOWN, "the daemon's reply is not what this client expects: restart the daemon"
    session.say(f"ARCBACKUPD {_NAMES[code]} - {text}")
    return code


def plugin_output(reply: Row, now: datetime) -> str:
    """The first line without what it begins with, then a line a problem."""
    problems = [f"{problem['severity'].upper()}: {problem['message']}" for problem in reply["problems"]]
    figures = " ".join(_figures(reply, now))
    more = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
    return "\n".join([f"{_summary(reply)} | {figures}", *map(_line, problems[:_LISTED]), *more])


def _summary(reply: Row) -> str:
    good, problems = reply["last_good"], reply["problems"]
    last = f"last good backup {ago(good['age_s'])}" if good else "no good backup"
    if not problems:
        return last
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{_line(problems[0]['message'])}{more}; {last}"


def _line(text: str) -> str:
    """What has a meaning of its own in the output can't come from a message, nor push the rest of it out."""
    line = " ".join(clean(text).replace("|", "/").split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


def _figures(reply: Row, now: datetime) -> Iterator[str]:
    limits, room = reply["limits"], reply["room"]
    if good := reply["last_good"]:
        yield f"last_good_age={good['age_s']:.0f}s;{limits['warn_after_s']:.0f};{limits['critical_after_s']:.0f};0"
    for row in reply["destinations"]:
        if done := parsed(row["done_at"]):
            age = max((now - done).total_seconds(), 0)
            warn, critical = limits["upload_warn_after_s"], limits["upload_critical_after_s"]
            yield f"{_label('upload_age_' + row['name'])}={age:.0f}s;{warn:.0f};{critical:.0f};0"
    if room:
        yield f"free={room['free']:d}B;;;0;{room['total']:d}"
    yield f"problems={len(reply['problems'])};;;0"


def _label(name: str) -> str:
    """Quoted, so that it may hold anything but what ends it."""
    return "'" + clean(name).replace("'", "_").replace("=", "_").replace("|", "_") + "'"
