"""Copies off this host as text for people. Pure; every text from outside is cleaned here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from arcbackupd.ctl.render import Column, Row, Screen, table
from arcbackupd.ctl.words import clean, moment, paragraph, plural, size

_COLUMNS = (
    Column("DESTINATION"),
    Column("STREAMS", rank=2),
    Column("DUMPS", rank=1, right=True),
    Column("UP TO DATE (UTC)"),
    Column("LOCATION", rank=3),
)


def plans(rows: Sequence[Row], screen: Screen) -> str:
    """``upload --dry-run``: a paragraph for each destination, and the keys."""
    return "\n\n".join(_plan(row, screen) for row in rows)


def _plan(row: Row, screen: Screen) -> str:
    lines = [paragraph(f"{row['destination']} ({row['location']}): {', '.join(row['streams'])}", screen.width)]
    lines += [f"  put     {clean(key)}" for key in row["put"]]
    lines += [f"  remove  {clean(key)}" for key in row["remove"]]
    put, removed = plural(len(row["put"]), "dump"), len(row["remove"])
    lines.append(f"  {put} to upload, {size(row['bytes'])}; {removed} to remove.")
    if "secrets" in row["streams"]:
        lines.append(f"  .env and the Compose files: {'to upload' if row['secrets'] else 'unchanged'}.")
    if "data" in row["streams"]:
        new = (
            "what is new" if row["files"] is None else f"{plural(row['files'], 'file')}, {size(row['file_bytes'])}"
        )
        lines.append(f"  Shared data: {new} to look at and upload.")
    return "\n".join(lines)


def results(rows: Sequence[Row], screen: Screen) -> str:
    """``upload``: how it ended at each destination."""
    return "\n".join(line for row in rows for line in _result(row, screen))


def _result(row: Row, screen: Screen) -> Iterator[str]:
    name = clean(row["destination"])
    if error := row["error"]:
        yield screen.paint(paragraph(f"{name}: {error['message']}", screen.width), "red")
        if error["hint"]:
            yield paragraph(f"hint: {error['hint']}", screen.width, "  ")
        return
    removed = f", {len(row['removed'])} removed" if row["removed"] else ""
    sent = f"{plural(row['files'], 'file')} uploaded, {size(row['bytes'])}" if row["files"] else "nothing to upload"
    yield f"{name}: {sent}{removed}."
    for problem in row["problems"]:
        yield screen.paint(paragraph(problem, screen.width, "  "), "yellow")


def fetched(name: str) -> str:
    """``fetch``: what is here now."""
    return f"{clean(name)} is on this host now, whole. To restore it: arcbackupctl restore {clean(name)}"


def destinations(rows: Sequence[Row], screen: Screen) -> str:
    """Of ``status``: a line a destination."""
    if not rows:
        return ""
    cells = [
        [
            clean(row["name"]),
            clean(", ".join(row["streams"])),
            str(row["dumps"]),
            moment(row["done_at"]) if row["done_at"] else "not yet",
            clean(row["location"] or "can't be used"),
        ]
        for row in rows
    ]
    return table(_COLUMNS, cells, ["yellow" if row["problem"] else None for row in rows], screen)
