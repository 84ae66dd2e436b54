"""News as text for people, and as JSON for programs. Whatever texts hold, no secret and no line break gets out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from arcbackupd import __version__
from arcbackupd.alarms.news import News, Standing
from arcbackupd.log import redacted
from arcbackupd.operations.health import Severity

SCHEMA = 1
"""Of the JSON document: fields are added under the same number, and never renamed."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_SUBJECT = 150
_LISTED = 50
"""Problems that one message lists: whoever has more of them looks at the host."""
TEST = "This is a test of arcbackupd's alarms: nothing is wrong. If you read it, alarms reach you."


def clean(text: str) -> str:
    """A text in one line that no terminal, mail or journal takes for a command, without secrets."""
    return " ".join(_CONTROL.sub(" ", redacted(text)).split())


def subject(news: News, host: str) -> str:
    """What is new, in a line: the worst of it first."""
    line = f"{host}: {_headline(news)}"
    return line if len(line) <= _SUBJECT else f"{line[: _SUBJECT - 1]}…"


def _headline(news: News) -> str:
    if not news.problems:
        return f"OK: {_relief(news)}"
    told = news.appeared or news.changed or news.problems
    first = f"{str(told[0].severity).upper()}: {clean(told[0].message)}"
    if news.reminder:
        return f"still {first}"
    if not (news.appeared or news.changed):
        return f"{str(news.state).upper()}: solved: {clean(news.resolved[0].message)}"
    return first


def _relief(news: News) -> str:
    return "all is well again" if news.least is Severity.WARNING else "nothing is critical any more"


def text(news: News, host: str) -> str:
    """All of it, in paragraphs."""
    return "\n\n".join(_paragraphs(news, host)) + "\n"


def _paragraphs(news: News, host: str) -> Iterator[str]:
    yield f"arcbackupd on {host}, {news.at:%Y-%m-%d %H:%M} UTC: {_state(news)}"
    fresh = {item.key for item in (*news.appeared, *news.changed)}
    yield from _section("New, or of another severity:", (*news.appeared, *news.changed))
    yield from _section("Still there:", [i for i in news.problems if i.key not in fresh])
    yield from _section("Solved:", news.resolved, hints=False)
    yield "`arcbackupctl status` on that host tells how things stand now."


def _state(news: News) -> str:
    if news.state is Severity.OK:
        return f"{_relief(news)}."
    return f"{news.state}" + (" (a reminder)." if news.reminder else ".")


def _section(heading: str, problems: Sequence[Standing], *, hints: bool = True) -> Iterator[str]:
    if problems:
        listed = [line for problem in problems[:_LISTED] for line in _lines(problem, hints=hints)]
        more = [f"- and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        yield "\n".join([heading, *listed, *more])


def _lines(problem: Standing, *, hints: bool) -> Iterator[str]:
    yield f"- {problem.severity}, since {problem.since:%Y-%m-%d %H:%M} UTC: {clean(problem.message)}"
    if hints and problem.hint:
        yield f"  What to do: {clean(problem.hint)}"


def document(news: News, host: str) -> bytes:
    """The same as JSON; docs/alarms.md has its fields."""
    event = "reminder" if news.reminder else "changed"
    lists = {
        "appeared": news.appeared,
        "changed": news.changed,
        "resolved": news.resolved,
        "problems": news.problems,
    }
    return _json(
        event,
        host,
        at=news.at.isoformat(),
        state=str(news.state),
        previous_state=str(news.before),
        summary=subject(news, host),
        **{name: _rows(problems[:_LISTED]) for name, problems in lists.items()},
        count={name: len(problems) for name, problems in lists.items()},
    )


def test_document(host: str) -> bytes:
    """What a test sends in its place."""
    return _json("test", host, summary=TEST)


def _json(event: str, host: str, **fields: object) -> bytes:
    head = {"version": SCHEMA, "event": event, "host": host, "arcbackupd": __version__}
    return json.dumps({**head, **fields}, ensure_ascii=False).encode()


def _rows(problems: Sequence[Standing]) -> list[dict[str, str]]:
    return [
        {
            "id": clean(problem.key),
            "code": problem.code,
            "subject": clean(problem.subject),
            "severity": str(problem.severity),
            "message": clean(problem.message),
            "hint": clean(problem.hint),
            "since": problem.since.isoformat(),
        }
        for problem in problems
    ]
