"""The daemon's replies as text for people: tables and words. Pure; every text from outside is cleaned here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from arcbackupd.ctl.words import clean, duration, moment, paragraph, plural, since, size, wrapped

Row = dict[str, Any]
Fact = tuple[str, str | None] | tuple[str, str | None, str | None]
"""A label, what is known, and its colour."""
_TABLES_SHOWN = 20
_LINES = 3  # of the last column, for one row
_LAST_COLUMN = 24  # characters that the last column should have before whole columns are left out for it
_NARROWEST = 16  # characters without which the last column goes below the others
_BELOW = 4  # how far it is indented there
_LABEL = 11
COLORS = {
    "compatible": "green",
    "older-snapshot": "yellow",
    "incompatible": "red",
    "broken": "red",
    "ok": "green",
    "warning": "yellow",
    "critical": "red",
}


class Screen(NamedTuple):
    """What the text is for: the time, the width in columns, and a way to colour it (or not to)."""

    now: datetime
    width: int
    paint: Callable[[str, str | None], str]


class Column(NamedTuple):
    """A column of a table. Of a table too wide, columns with the highest ``rank`` go first; 0 always stays."""

    title: str
    rank: int = 0
    right: bool = False


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], colors: Sequence[str | None], screen: Screen
) -> str:
    """A padded table, no line wider than the screen: what doesn't fit in the last column goes on below it.

    ``colors`` has one for the last cell of each row.
    """
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    *kept, last = _fitting(columns, widths, screen.width)
    beside = sum(widths[i] + 2 for i in kept)
    below = screen.width - beside < min(widths[last], _NARROWEST)
    indent = " " * (_BELOW if below else beside)

    def line(cells: Sequence[str], color: str | None) -> str:
        padded = [cells[i].rjust(widths[i]) if columns[i].right else cells[i].ljust(widths[i]) for i in kept]
        room = max(screen.width - len(indent), 8)
        last_lines = wrapped(cells[last], room, max_lines=_LINES, placeholder="…")
        first = screen.paint(last_lines.pop(0), color) if last_lines and not below else ""
        lines = ["  ".join([*padded, first]), *(indent + screen.paint(text, color) for text in last_lines)]
        return "\n".join(line.rstrip() for line in lines)

    return "\n".join(map(line, [titles, *rows], [None, *colors]))


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    kept = list(range(len(columns)))
    while sum(widths[i] + 2 for i in kept[:-1]) + min(widths[kept[-1]], _LAST_COLUMN) > width:
        goes = max(kept[:-1], key=lambda i: columns[i].rank, default=kept[-1])
        if columns[goes].rank == 0:
            break
        kept.remove(goes)
    return kept


def badge(row: Row) -> str:
    """A backup against the running code, with what differs."""
    missing, applied = len(row["only_in_backup"]), len(row["only_in_code"])
    match row["status"]:
        case "older-snapshot":
            text = f"older snapshot (+{plural(applied, 'migration')} applied since)"
        case "incompatible":
            text = f"incompatible (-{missing} not in code, +{applied} applied since)"
        case "unknown":
            text = f"unknown ({row['problem'] or 'backend not running'})"
        case "broken":
            text = f"broken ({row['problem']})"
        case status:
            text = str(status)
    if row.get("before_migrations"):
        text += ", before migrations"
    if row.get("anomalies"):
        text += ", flagged"
    if row.get("proved_at"):
        text += ", proved restorable"
    elsewhere = [place for place in row["stored"] if place != "local"]
    return clean(text if "local" in row["stored"] or not elsewhere else f"{text}, only at {', '.join(elsewhere)}")


def badge_color(row: Row) -> str | None:
    """The colour of a backup's badge."""
    return "yellow" if row.get("anomalies") and row["status"] == "compatible" else COLORS.get(row["status"])


_BACKUP_COLUMNS = (
    Column("#", right=True),
    Column("NAME"),
    Column("TIME (UTC)", rank=4),
    Column("AGE", rank=1),
    Column("SIZE", rank=2, right=True),
    Column("REASON", rank=3),
    Column("STATUS"),
)


def backups(reply: Row, screen: Screen) -> str:
    """``list``: a line a backup, then the paragraph on the newest."""
    if not reply["backups"]:
        return _no_backups(reply, screen)
    rows = [_backup_row(row, screen) for row in reply["backups"]]
    text = table(_BACKUP_COLUMNS, rows, [badge_color(row) for row in reply["backups"]], screen)
    return f"{text}\n\n{paragraph(reply['notice'], screen.width)}" if reply.get("notice") else text


def _backup_row(row: Row, screen: Screen) -> list[str]:
    taken = row["taken_at"]
    cells = [row["index"], row["name"], moment(taken), since(taken, screen.now), size(row["size"]), row["reason"]]
    return [*map(clean, cells), badge(row)]


def _no_backups(reply: Row, screen: Screen) -> str:
    first = "No backups yet" + (f" in {clean(reply['directory'])}." if reply.get("directory") else ".")
    then = "Take one now: arcbackupctl backup. When the next is due: arcbackupctl jobs."
    notice = [paragraph(reply["notice"], screen.width)] if reply.get("notice") else []
    return "\n".join([paragraph(first, screen.width), paragraph(then, screen.width), *notice])


def inspection(reply: Row, screen: Screen) -> str:
    """``inspect``: all that is known about one backup."""
    row = reply["backup"]
    parts = [clean(f"{row['name']}  (number {row['index']} in the list)"), _facts(row, screen)]
    parts += [anomalies(row.get("anomalies") or (), screen)]
    parts += _differences(row)
    parts += _rows_per_table(row)
    parts += [paragraph(note, screen.width) for note in row["notes"]]
    if reply.get("verified") is not None:
        parts.append(_verified(reply["verified"], screen))
    return "\n\n".join(part for part in parts if part)


def _facts(row: Row, screen: Screen) -> str:
    known: list[Fact] = [
        ("Status", badge(row), badge_color(row)),
        ("Taken", _taken(row, screen)),
        ("Boot", _before(row)),
        ("Drill", *_drilled(row.get("drill"), screen)),
        ("Size", _sizes(row)),
        ("Migrations", None if row["migrations"] is None else f"{plural(row['migrations'], 'migration')} recorded"),
        ("Contents", _contents(row)),
        ("Database", clean(row["database"]) if row["database"] else None),
        ("Host", clean(row["host"]) if row["host"] else None),
        ("Server", _server(row)),
        ("Backend", clean(row["backend_image"]) if row["backend_image"] else None),
        ("Roles", clean(", ".join(row["roles"]))),
        ("File", clean(row["path"]) if row["path"] else None),
        ("Written", f"{moment(row['mtime'])} UTC"),
        ("Stored", clean(", ".join(row["stored"]))),
        ("Shared", f"{row['links']} names hold this content on disk" if row["links"] > 1 else None),
        ("Manifest", None if row["manifest"] else "none: what is known comes from reading the dump itself"),
        ("SHA-256", f"{clean(row['sql_sha256'])} (of the SQL)" if row["sql_sha256"] else None),
        ("Content", clean(row["content_sha256"]) if row["content_sha256"] else None),
    ]
    return facts(known, screen)


def facts(known: Sequence[Fact], screen: Screen) -> str:
    """Labels with what is known, in lines no wider than the screen; but what is a single word stays one."""
    return "\n".join(_fact(*fact, screen=screen) for fact in known if fact[1])


def _fact(label: str, value: str, color: str | None = None, *, screen: Screen) -> str:
    lines = wrapped(value, max(screen.width - _LABEL - 2, 20), break_long_words=False)
    indent = "\n" + " " * (_LABEL + 2)
    return f"  {label:<{_LABEL}}" + indent.join(screen.paint(line, color) for line in lines)


def _taken(row: Row, screen: Screen) -> str:
    took = f", in {duration(row['duration_s'])}" if row["duration_s"] is not None else ""
    return f"{moment(row['taken_at'])} UTC ({since(row['taken_at'], screen.now)}), {clean(row['reason'])}{took}"


def _before(row: Row) -> str | None:
    match row.get("before_migrations"):
        case True:
            return "taken surely before the migrations of that start"
        case False:
            return clean(f"not surely before the migrations of that start: {row.get('not_surely_before')}")
    return None


def _drilled(drill: Row | None, screen: Screen) -> tuple[str | None, str | None]:
    if drill is None:
        return None, None
    when = f"{moment(drill['drilled_at'])} UTC ({since(drill['drilled_at'], screen.now)})"
    if drill["outcome"] == "proved":
        return f"proved restorable {when}, in {duration(drill['duration_s'])}", None
    return f"failed {when}: {drill['problem']}", "red"


def _sizes(row: Row) -> str:
    length = row["sql_length"]
    return size(row["size"]) + (f" ({size(length)} of SQL)" if length is not None else "")


def _contents(row: Row) -> str | None:
    if row["tables"] is None:
        return None
    return f"{plural(row['tables'], 'table')}, {plural(sum(row['rows'].values()), 'row')}"


def _server(row: Row) -> str | None:
    if not row["server_version"] and not row["pg_dump_version"]:
        return None
    return clean(f"PostgreSQL {row['server_version'] or '?'}, pg_dump {row['pg_dump_version'] or '?'}")


def _differences(row: Row) -> Iterator[str]:
    for key, sign, title in (
        ("only_in_backup", "-", "In the backup, not in the running code:"),
        ("only_in_code", "+", "In the running code, not in the backup (applied since):"),
        ("leftover", " ", "Of apps that the code no longer has (not counted):"),
    ):
        if row[key]:
            yield "\n".join([title, *(f"  {sign} {clean(name)}" for name in row[key])])


def anomalies(sentences: Sequence[str], screen: Screen) -> str:
    """What a backup lost against its history."""
    if not sentences:
        return ""
    title = "Flagged, for what it lost against the backups before it:"
    return "\n".join(
        [screen.paint(title, "yellow"), *(paragraph(f"! {text}", screen.width, "  ") for text in sentences)]
    )


def _rows_per_table(row: Row) -> Iterator[str]:
    largest = sorted(row["rows"].items(), key=lambda item: (-item[1], item[0]))[:_TABLES_SHOWN]
    if not largest:
        return
    more = len(row["rows"]) - len(largest)
    title = f"Rows per table (the largest {len(largest)}; all with --json):" if more > 0 else "Rows per table:"
    width = max(len(f"{count:,}") for _, count in largest)
    yield "\n".join([title, *(f"  {count:>{width},}  {clean(name)}" for name, count in largest)])


def _verified(verified: Row, screen: Screen) -> str:
    if verified["ok"]:
        return screen.paint(f"Verified: all {size(verified['bytes'])} read, every hash matches.", "green")
    text = f"NOT whole: {clean(verified['problem'])} (after {size(verified['bytes'])})."
    return screen.paint(text, "red")


def backup_result(result: Row) -> str:
    """``backup``: how it ended."""
    name = clean(result.get("name"))
    match result["outcome"]:
        case "published":
            sql = f" ({size(result['sql_length'])} of SQL)" if result.get("sql_length") is not None else ""
            return f"{name}: {size(result.get('size'))}{sql}, in {duration(result.get('duration_s'))}."
        case "unchanged":
            return f"{name}: nothing has changed since the backup before; it takes no more space."
        case "skipped":
            return "No backup taken: there is nothing to back up yet."
        case "queued":
            return f"Queued as {clean(result.get('operation'))}. To see it: arcbackupctl status"
        case outcome:
            return clean(f"{outcome}: {name}")


def going(plan: Row) -> list[str]:
    """Names of what a plan of retention would remove."""
    return [verdict["name"] for verdict in plan["verdicts"] if not verdict["keep"]]


def plan(reply: Row, screen: Screen, *, removed: bool = False) -> str:
    """``prune``: what goes, or went, and why each other one stays."""
    gone = set(reply["removed"] if removed else going(reply))
    verdicts = sorted(reply["verdicts"], key=lambda verdict: verdict["name"] not in gone)
    rows = [_verdict_row(verdict, gone) for verdict in verdicts]
    columns = (Column(""), Column("NAME"), Column("SIZE", rank=1, right=True), Column("WHY"))
    parts = [table(columns, rows, [None] * len(rows), screen)] if rows else []
    if reply["frozen"]:
        parts.append(paragraph(f"Retention holds still: {reply['frozen']}", screen.width))
    elif reply.get("held"):
        parts.append(paragraph(reply["held"], screen.width))
    verb = "removed" if removed else "to remove"
    freed = f", {size(reply['freed'])} {'freed' if removed else 'to free'}" if gone else ""
    parts.append(f"{plural(len(gone), 'backup')} {verb}{freed}; {len(rows) - len(gone)} kept.")
    return "\n\n".join(parts)


def _verdict_row(verdict: Row, gone: set[str]) -> list[str]:
    word = "remove" if verdict["name"] in gone else "keep"
    return [word, clean(verdict["name"]), size(verdict["size"]), clean(verdict["why"])]


_JOB_COLUMNS = (
    Column("JOB"),
    Column("STATE"),
    Column("SCHEDULE", rank=2),
    Column("LAST RUN (UTC)", rank=1),
    Column("NEXT RUN (UTC)", rank=1),
    Column("OUTCOME"),
)


def jobs(rows: Sequence[Row], screen: Screen) -> str:
    """``jobs``: a line a job."""
    if not rows:
        return "No jobs are configured."
    return table(_JOB_COLUMNS, [_job_row(row) for row in rows], [_job_color(row) for row in rows], screen)


def _job_row(row: Row) -> list[str]:
    outcome = row["last_error"] or row["last_outcome"] or "never ran"
    times = [moment(row[key]) if row[key] else "-" for key in ("last_run", "next_run")]
    return [clean(row["name"]), clean(row["state"]), clean(row["schedule"] or "-"), *times, clean(outcome)]


def _job_color(row: Row) -> str | None:
    return "red" if row["last_error"] or row["state"] == "failed to load" else None


def event_line(event: Row) -> str:
    """What an operation told, in one line."""
    if event.get("type") != "progress":
        return clean(event.get("text") or event.get("name") or "")
    done = [size(event.get("bytes") or 0)]
    if event.get("elapsed_s"):
        done.append(f"{size((event.get('bytes') or 0) / event['elapsed_s'])}/s")
    if event.get("table"):
        done.append(clean(event["table"]))
    return ", ".join([*done, *_share(event)])


def _share(event: Row) -> Iterator[str]:
    """How much of it is done, and how long the rest takes."""
    done, total = event.get("bytes"), event.get("total_bytes")
    if done is not None and total:
        yield f"{min(done * 100 // total, 100)} %"
    left = event.get("eta_s")
    if left := _left(event) if left is None else left:
        yield f"about {duration(left)} left"


def _left(event: Row) -> float | None:
    """How long the rest takes at the pace until now, where the daemon has no better estimate."""
    done, total, elapsed = (event.get(key) or 0 for key in ("bytes", "total_bytes", "elapsed_s"))
    return (total - done) * elapsed / done if 0 < done < total else None
